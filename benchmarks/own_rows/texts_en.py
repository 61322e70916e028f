"""English wordings of the generated files.

A text is a list of wordings separated by `|`. In a wording `{slot}` stands for a wording of the table's entry.
Letters and signs are those that nano has seen: it has never met an apostrophe, a bracket or a semicolon.
"""

from __future__ import annotations

SHARED = {
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
    "n": "2|3|4|5|6|7|8|9|11|12|14",
    "with": "my wife|my husband|two friends|the children|my mother|a neighbour|people from work|my sister",
    "relative": "mother|father|sister|brother|daughter|son|uncle|aunt|neighbour",
    "town": "Kelford|Port Amel|Velton|Norgate|Tarbridge|Selwick|Dorham|Minster",
    "colour": "red|blue|green|black|white|brown|yellow|grey|purple|pink",
    "product": "lamp|kettle|radio|bicycle|clock|heater|printer|oven|drill|camera|fan|phone|pump|scale",
    "year": "2009|2011|2012|2014|2015|2017|2018|2019",
}

REVIEW_KINDS: dict[str, dict[str, str]] = {
    "dinner": {
        "opener": "We came on a {day} with {with}.|We had a table for {n}.|Dinner with {with}.|We ate here in {month}.",
        "dish": "soup|fish|rice|bread|coffee|salad|cake|pie|dumplings|tea",
        "good": "the {dish} was {fresh}|the waiter was {kind}|we got a quiet table|the {dish} came at once"
        "|every plate was empty in the end|the cook knows what to do with {dish}",
        "bad": "the {dish} was {cold}|the waiter was {rude}|we got the table beside the door"
        "|the {dish} came after an hour|half of the {dish} stayed on the plate|the cook must have had a bad day",
        "fresh": "fresh|hot|very good|full of taste|just right|well made",
        "cold": "cold|dry|old|far too salty|half raw|without any taste",
        "kind": "friendly|quick|kind|patient|in a good mood",
        "rude": "rude|slow|hard to find|in a bad mood|tired of guests",
        "praise": "we will come again|nobody left hungry|the best {dish} in town|worth a long drive",
        "blame": "we will not come again|we left hungry|the worst {dish} in town|not worth the way",
    },
    "stay": {
        "opener": "We stayed for {n} nights.|I was there in {month} with {with}.|A weekend in {town}.|Our second stay.",
        "good": "the room was {clean}|the bed was soft|the window faced the garden|breakfast was good"
        "|there was hot water day and night|the owner gave us a map and good advice",
        "bad": "the room was {dirty}|the bed was too short|the window faced a wall|breakfast was poor"
        "|there was no hot water|the owner did not even look up",
        "clean": "clean|bright|quiet|warm|larger than in the photo",
        "dirty": "dirty|dark|loud|cold|smaller than in the photo",
        "praise": "we slept like stones|I would book it again|we stayed a day longer|my family was happy",
        "blame": "we hardly slept|I would not book it again|we left a day early|my family was not happy",
    },
    "purchase": {
        "opener": "I bought it for my {relative}.|Ordered in {month}.|A present for my {relative}."
        "|My second {product}.",
        "good": "the {product} works well|the {product} looks {fine}|it came a day early|the parts fit"
        "|even my {relative} can use it|after {n} months it is as good as new",
        "bad": "the {product} broke after {n} days|the {product} looks {poor}|it came {n} days late"
        "|one part was missing|nobody can make sense of the manual|it is far too loud",
        "fine": "fine|solid|well made|better than in the photo",
        "poor": "cheap|used|badly made|worse than in the photo",
        "praise": "I would buy it again|worth every coin|it has never let me down|I can only recommend it",
        "blame": "I would not buy it again|not worth a coin|I want my money back|I can only warn you",
    },
    "evening": {
        "opener": "We saw it on a {day}.|A concert in {town}.|I went with {with}.|Second evening of the festival.",
        "good": "the music was {lovely}|the singer was in great form|the story moved us|we laughed a lot"
        "|the seats were close to the stage|the time just flew",
        "bad": "the music was {dull}|the singer had lost her voice|the story made no sense|nobody laughed"
        "|the seats were behind a post|it went on for ever",
        "lovely": "lovely|new and clever|full of life|a joy",
        "dull": "dull|far too loud|the same as ever|a pain",
        "praise": "people stood up and sang|I would go again tomorrow|we talked about it for days|a great evening",
        "blame": "people left before the end|I would not go again|we wanted our money back|a lost evening",
    },
}
"""Openers, clauses and verdicts of a review by what it is about; `good` and `bad` are about one aspect."""

REVIEW_FORMS = (
    "{same} and {same}.|{same}. {verdict}.|{verdict}.|{same}, and {verdict}."
    "|{opposite}, but {same} and {verdict}.|although {opposite}, {verdict}.|yes, {opposite}. Still, {verdict}."
    "|{verdict}, even if {opposite}.|I had read that {opposite}. Not so: {same}.|{same}, {same}: {verdict}."
)
"""Forms of a review: `same` and `verdict` share its sentiment, `opposite` is an aspect that does not decide."""
REVIEW_ENDS = "We paid {n}0 in all.|That was in {month}.|It is near the station.|More next time.|So much for {town}."

DEPARTMENTS: dict[str, str] = {
    "delivery": "my parcel has not come|the {product} was to arrive on {day}, and I am still waiting"
    "|the driver left the {product} at the wrong door|can you bring it on {day} instead"
    "|the map has shown the parcel in {town} for {n} days|how long does it take to send a {product} to {town}"
    "|the box was open when the driver handed it over|please leave the {product} with my neighbour"
    "|nobody rang, but the note says that I was not at home",
    "billing": "I have paid twice for the {product}|the bill for {month} shows {n}5 instead of {n}0"
    "|my card was refused, but the money has left my account|please put my new name on the bill"
    "|where can I see what I have paid so far|the discount for the {product} is missing on the bill"
    "|a reminder came, although I paid on {day}|can I pay for the {product} in {n} parts|the sum for {month} is wrong",
    "repairs": "the {product} makes a loud noise|the {product} does not start any more|the {product} gets far too hot"
    "|can someone come and mend the {product}|I need a new switch for my {product}"
    "|the handle of the {product} broke off after {n} months|water runs out of the {product}"
    "|the light of the {product} blinks {n} times, then all is dark|who looks after an old {product} from {year}",
    "sales": "do you have the {product} in {colour}|what do {n}0 pieces of the {product} cost"
    "|which {product} is best for a small room|is the {colour} {product} of the photo still to be had"
    "|please make us an offer for {n} of them|is there a larger {product} than the one in the window"
    "|when will the new {product} be in your shop|does the {product} come with a stand",
    "returns": "I want to send the {product} back|the {product} is too small, and I would like a larger one"
    "|how do I get a label for the way back|I have changed my mind about the {product}"
    "|the {product} is not what the photo shows, please take it back|I ordered {colour}, not this: please change it"
    "|until when can I give the {product} back|we got two by mistake and will keep only one",
}
"""What a message is about, by department."""
DEPARTMENT_WEIGHTS = (0.28, 0.24, 0.2, 0.16, 0.12)
MESSAGE_OPENERS = "Hello,|Good morning,|Dear team,|Hi,|To whom it may concern,|A short question:|Hello again,"
MESSAGE_CONTEXTS = (
    "I bought the {product} in {month}.|I paid for it on {day}.|The parcel came on {day}."
    "|I have been with you since {year}.|Your colleague in {town} was very kind."
    "|We use your {product} at work.|My {relative} gave me the {product}."
    "|I have asked this before.|The {product} that I got in {month} still works.|I saw your shop in {town}."
)
"""Sentences that do not decide the department, though they name goods, payments and parcels."""
MESSAGE_ENDS = (
    "Thank you.|Please call me.|Please answer soon.|Best wishes from {town}.|I am at home on {day}.|What now?"
)

STAR_ASPECTS = {
    "room": (
        "dirty|loud|cold|far too small",
        "plain|all right|as in the photo|neither large nor small",
        "bright|clean|very quiet|warm",
    ),
    "food": (
        "cold|salty|poor|without taste",
        "plain|all right|like at home|neither good nor bad",
        "fresh|very good|full of taste|lovely",
    ),
    "staff": (
        "rude|slow|never there|tired",
        "all right|busy|polite enough|much as anywhere",
        "kind|quick|patient|always there",
    ),
    "garden": (
        "full of weeds|closed|muddy|dark",
        "small|plain|all right|much as anywhere",
        "lovely|full of flowers|very quiet|green",
    ),
}
"""Words for each aspect of a guest house: bad, fair, good."""
STAR_FORMS = (
    "{opener} The {a} was {x}, the {b} was {y}.|{opener} {A}: {x}. {B}: {y}.|The {a} was {x} and the {b} {y}. {end}"
    "|{opener} {A} {x}, {b} {y}. {end}|{end} I found the {a} {x} and the {b} {y}."
)
STAR_OPENERS = (
    "We came in {month}.|{n} nights in {town}.|I was here with {with}.|A {day} in {town}.|Our holiday in {month}."
)
STAR_ENDS = (
    "We paid {n}0.|The road there is long.|The house is near the lake.|We drove home on {day}.|It rained on {day}."
)

PEOPLE = (
    "Adela|Bruno|Celia|Dario|Edda|Fabian|Greta|Hanno|Ilona|Jonas|Karla|Lorenz|Marlen|Nadia|Oskar|Petra|Rolf|Sanna"
    "|Till|Vera"
)
FACTS = (
    (
        "person",
        "town",
        "{s} lives in {v}.|The home of {s} is in {v}.|{s} has a house in {v}.|In {v} you can visit {s}.",
    ),
    ("person", "animal", "{s} keeps a {v}.|The pet of {s} is a {v}.|{s} has got a {v} at home.|A {v} belongs to {s}."),
    ("person", "job", "{s} works as a {v}.|The job of {s} is that of a {v}.|{s} earns money as a {v}.|{s} is a {v}."),
    ("person", "instrument", "{s} plays the {v}.|The instrument of {s} is the {v}.|On the {v} you hear {s}."),
    ("person", "food", "{s} likes {v} best.|The favourite food of {s} is {v}.|{s} eats {v} every day."),
    ("town", "goods", "{s} is known for its {v}.|The town of {s} sells {v}.|People come to {s} for {v}."),
    ("shop", "day", "The {s} opens on {v}.|On {v} the {s} is open.|You can go to the {s} on {v}."),
)
"""Kind of subject, kind of value and wordings of each fact of the pairs."""
PAIR_WORDS = {
    "person": PEOPLE,
    "town": SHARED["town"],
    "day": SHARED["day"],
    "animal": "cat|dog|parrot|rabbit|hen|goat|pony|turtle|monkey|duck",
    "job": "tailor|barber|waiter|teacher|baker|driver|nurse|miner|painter|judge",
    "instrument": "harp|flute|guitar|piano|violin|horn|cello|trumpet|banjo|organ",
    "food": "rice|honey|cheese|bread|soup|fish|noodles|cherries|nuts|eggs",
    "goods": "hats|knives|bells|carpets|clocks|kites|lamps|masks|boots|toys",
    "shop": "museum|market|library|swimming pool|bakery|town hall|theatre|school",
}

ORDERS = (
    "my order {order} has not come yet|I would like to cancel {order}|please change the address of {order}"
    "|what has become of {order}|the bill for {order} is missing|{order} came without the {product}"
    "|I ordered a {colour} {product} under {order} and got a {colour} one|can you add a {product} to {order}"
    "|the {product} of {order} is broken|{order} was left at a neighbour|about {order}: is there any news"
)
"""Requests with an order number."""
NO_ORDERS = (
    "do you have the {product} in {colour}|when is your shop in {town} open|my {product} is broken"
    "|I have not got my order yet|what does a {product} cost|please call me about the {product}"
)
"""Requests without an order number."""
ORDER_CONTEXTS = (
    "My customer number is {customer}.|You can call me at {phone}.|I paid {price} on {day}.|It was sent on {date}."
    "|The {product} has the number {model}.|I live in {town}, house {n}.|We are a family of {n}.|The bill says {price}."
)
"""Sentences with other numbers."""

MONTHS = SHARED["month"].split("|")
DATE_SENTENCES = (
    "{date}|The bridge was opened on {date}.|Date of birth: {date}|Signed in {town} on {date}.|Valid until {date}"
    "|Our shop will be closed on {date}.|On {date} the river rose by {n} feet.|Your letter of {date}"
    "|{date}: first snow in {town}|Delivery on {date}, before {n}.|Printed on {date} in {town}"
)
DATE_INSTRUCTIONS = "Write the date as year-month-day: "

SIXTY: dict[str, str] = {
    "food": "who brings the {dish} on {day}|we need more {dish} for {n} people|the {dish} was very good"
    "|I will cook {dish} tonight|is there any {dish} left|{with} would like {dish} for dinner"
    "|buy {dish} on your way home",
    "sport": "who plays {game} on {day}|we need {n} more people for {game}|the {game} was very close"
    "|I will train for {game} tonight|is there any {game} on {day}|{with} would like to watch {game}"
    "|our {game} team lost by {n} points",
}
SIXTY_WORDS = {
    "dish": "rice|soup|bread|cheese|fish|noodles",
    "game": "tennis|football|hockey|golf|cricket|basketball",
}
SIXTY_WEIGHTS = (0.55, 0.45)
