"""English wordings of the generated files.

A text is a list of wordings separated by `|`. In a wording `{slot}` stands for a wording of the table's entry. Each
class has few words, because nano learns a word from some dozens of rows. Letters and signs are those that it has seen:
it has never met an apostrophe, a bracket or a semicolon.
"""

from __future__ import annotations

SHARED = {
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "month": "January|March|April|May|June|July|October",
    "n": "2|3|4|5|6|7|8|9",
    "with": "my wife|my husband|two friends|the children|my mother|my sister",
    "relative": "mother|father|sister|brother|friend|child",
    "town": "Kelford|Velton|Norgate|Port Amel|Dorham",
    "colour": "red|blue|green|black|white",
    "product": "lamp|radio|clock|kettle|bicycle|heater|fan|camera",
}

REVIEW_KINDS = (
    "soup|fish|bread|cake|tea|coffee|waiter",
    "room|bed|garden|house|window|breakfast|owner",
    "book|song|film|story|music|singer|end",
)
"""What a review is about, by kind of place."""
REVIEW_WORDS = {
    "positive": ("good|great|lovely|nice|fine|perfect", "we will come again|thank you so much|best day of the year"),
    "negative": ("bad|poor|awful|dull|sad|terrible", "never again|we left early|I want my money back"),
}
"""Adjectives and verdicts by sentiment."""
REVIEW_FORMS = (
    "the {thing} was {same}.|the {thing} was {same} and the {thing} was {same}.|{same} {thing}, {same} {thing}."
    "|the {thing} was {same}: {verdict}.|{same} {thing}, and {verdict}.|I found the {thing} {same}."
    "|the {thing} was {opposite}, but {verdict}.|the {thing} was {opposite}, but {verdict} and the {thing} was {same}."
)
"""Forms of a review: `same` and `verdict` share its sentiment, `opposite` does not decide."""
REVIEW_OPENERS = "We came on a {day}.|I was there with {with}.|Our day in {town}.|I went in {month}."
REVIEW_ENDS = "We paid {n}0 in all.|That was in {month}.|It is near the station.|More on {day}.|So much for {town}."

DEPARTMENTS: dict[str, str] = {
    "delivery": "my parcel has not come|where is the parcel with the {product}|the driver was not here on {day}"
    "|the driver left the {product} at the wrong door|please bring the parcel to {town}",
    "billing": "I have paid twice for the {product}|the bill for the {product} is wrong|I can not pay by card"
    "|please send me the bill for {month}|the bill says {n}5 and not {n}0",
    "repairs": "the {product} is broken|the {product} does not start|can you mend the {product}"
    "|the {product} makes a noise|the {product} is broken again, please mend it",
    "sales": "what does a {product} cost|do you have a {colour} {product}"
    "|I would like to buy {n} pieces of this {product}"
    "|which {product} is best for a school|do you sell a {product} for children",
    "returns": "I want to send the {product} back|please take the {product} back|can I give the {product} back"
    "|I would like another {product} for it, this one goes back|how do I send it back",
}
"""What a message is about, by department."""
DEPARTMENT_WEIGHTS = (0.28, 0.24, 0.2, 0.16, 0.12)
MESSAGE_OPENERS = "Hello,|Good morning,|Dear team,|Hi,"
MESSAGE_CONTEXTS = (
    "I live in {town}.|My {relative} uses it every day.|I have asked this before.|It is for my {relative}."
    "|I saw it in {town} on {day}.|I bought it in {month}.|I have paid for it.|The parcel came on {day}."
)
"""Sentences that do not decide the department; the last two name the words of one."""
MESSAGE_ENDS = "Thank you.|Please call me.|Please answer soon.|I am at home on {day}.|What now?"

STAR_WORDS = ("awful|terrible|horrible", "poor|weak|dull", "fair|plain|so-so", "good|nice|fine", "great|perfect|lovely")
"""Words for one to five stars."""
STAR_FORMS = (
    "the {thing} was {x}.|the {thing} was {x} and the {thing} {y}.|{x} {thing}, {y} {thing}."
    "|a {x} day, and {y} {thing}."
)

PEOPLE = "Adela|Bruno|Dario|Edda|Greta|Hanno|Jonas|Karla|Nadia|Petra|Rolf|Vera"
THINGS = "boots|hats|lamps|clocks|boats|bells|books|chairs|horses|toys"
VERBS = (("bought", "buy"), ("sold", "sell"), ("made", "make"), ("lost", "lose"), ("found", "find"))
"""Past tense and infinitive of what people do with things."""
CLAIMS: dict[str, str] = {
    "yes": "{s} {did} {v}.|It was {s} who {did} {v}.|{s} {did} some {v}.",
    "no": "{s} did not {do} {v}.|{s} never {did} {v}.|It is not true that {s} {did} {v}.",
    "maybe": "{s} {did} {v} for a friend.|{s} {did} {v} for {n} coins.|{s} {did} {v} with a friend.",
}
"""What follows from `{s} {did} {n} {v}.`: the second sentence of a pair, by label."""

ORDERS = (
    "my order {order} has not come|please stop {order}|what about {order}|the bill for {order} is wrong"
    "|{order} came without the {product}|the {product} of {order} is broken|I have a question about {order}"
)
"""Requests with an order number."""
NO_ORDERS = "do you have the {product} in {colour}|my {product} is broken|what does a {product} cost"
"""Requests without an order number."""
ORDER_CONTEXTS = (
    "My customer number is {customer}.|You can call me at {phone}.|I paid {price} on {day}.|It was sent on {date}."
    "|I live in {town}, house {n}.|We are a family of {n}."
)
"""Sentences with other numbers."""

MONTHS = "January February March April May June July August September October November December"
DATE_SENTENCES = (
    "{date}|The bridge was opened on {date}.|Born: {date}|Written in {town} on {date}.|Your letter of {date}"
    "|{date}: first snow in {town}|Our shop opens on {date}."
)
DATE_INSTRUCTION = "Write the date as year-month-day: "

SIXTY: dict[str, str] = {
    "food": "we eat {dish} on {day}|who would eat {dish} with {with}|{with} will eat {dish} on {day}"
    "|is there {dish} to eat on {day}|you should eat {dish} with {with}",
    "sport": "we play {game} on {day}|who would play {game} with {with}|{with} will play {game} on {day}"
    "|is there {game} to play on {day}|you should play {game} with {with}",
}
SIXTY_WORDS = {"dish": "rice|soup|bread|cheese", "game": "tennis|football|hockey|cricket"}
SIXTY_WEIGHTS = (0.55, 0.45)
