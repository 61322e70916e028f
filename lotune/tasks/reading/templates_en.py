"""Tables of the passage generator: a few hundred words in each language, and the English wordings.

A text is a list of wordings separated by `|`. In a wording `{s}` is the subject and `{v}` the value. A relation has
four texts: predicates (two of which can be joined after one subject), sentences, questions about the value, and
questions about the subject.
"""

from __future__ import annotations

RELATIONS: dict[str, dict[str, str]] = {
    "person": {"born": "year", "home": "town", "job": "job", "likes": "food", "plays": "instrument", "pet": "animal"},
    "town": {"river": "river", "population": "count", "festival": "festival", "mayor": "person", "known": "product"},
    "company": {"founded": "year", "makes": "product", "seat": "town", "head": "person", "workers": "count"},
    "school": {"opened": "year", "pupils": "count", "subject": "subject", "place": "town"},
    "museum": {"shows": "exhibit", "built": "year", "place": "town", "visitors": "count"},
    "book": {"author": "person", "printed": "year", "topic": "topic", "pages": "count"},
    "river": {"length": "count", "mouth": "town", "fish": "fish", "mountain": "mountain"},
    "ship": {"captain": "person", "launched": "year", "cargo": "product", "harbour": "town"},
    "pet": {"species": "animal", "owner": "person", "colour": "colour", "eats": "food", "sleeps": "spot"},
    "team": {"sport": "sport", "colour": "colour", "coach": "person", "place": "town"},
}
"""Relations of each kind of subject, and the kind of their value: a year, a count, a word table or a kind of name."""

PREFIX = {"museum": "the ", "river": "the ", "book": "the book ", "ship": "the ship ", "mountain": ""}
"""Text before an English name inside a sentence. Answers do without it: the contest's EM does not drop articles."""

SHAPES: dict[str, dict[str, str]] = {
    "en": {
        "person": "{a} {b}",
        "town": "{a}|{a}ton|{a}ford|Port {a}",
        "company": "{a} Works|{a} Trading|{a} Brothers",
        "school": "{a} School|{a} College",
        "museum": "{a} Museum|{a} Gallery",
        "book": "Song of {a}|Road to {a}|{a} Nights",
        "river": "{a} River|{a} Stream",
        "mountain": "Mount {a}|{a} Hill",
        "ship": "{a} Star|Queen {a}|{a} Wind",
        "pet": "{a}",
        "team": "{a} United|{a} Rovers",
    },
    "zh": {
        "person": "{f}{a}",
        "town": "{a}市|{a}镇|{a}县",
        "company": "{a}公司|{a}集团|{a}工厂",
        "school": "{a}小学|{a}中学|{a}学院",
        "museum": "{a}博物馆|{a}美术馆",
        "book": "《{a}之歌》|《{a}的故事》|《{a}之夜》",
        "river": "{a}河|{a}江",
        "mountain": "{a}山|{a}峰",
        "ship": "{a}号",
        "pet": "小{a}",
        "team": "{a}队",
    },
}
"""Patterns of names by kind: `{a}` and `{b}` are invented parts, `{f}` is a family name."""

# Invented names cannot be known from pre-training, so an answer has to come from its passage.
SYLLABLES = (
    "ba be bo da de do fa fe ga go ha ho ja jo ka ke ko la le lo ma me mo na ne no pa pe po ra re ro sa se so ta te to "
    "va ve vo wa we za zo bel bur cal cor dan del dor fen gar gil han hol kar kel kin lan len lin lor mar mel min mor "
    "nar nel nor pel per ran rel rin ros sal sel sen sol tam tar tel ten tor val vel ven ver vin wel wen wil zan zel"
)
FAMILY_NAMES = "赵钱孙李周吴郑王冯陈蒋沈韩杨朱秦许何吕张孔曹严金魏陶姜谢邹章苏潘葛范彭鲁韦马方任袁柳"
NAME_CHARACTERS = (
    "安白保北本冰波博彩昌长超朝晨成诚春聪达丹德登东冬恩发芳飞丰风凤福刚高光广贵国海浩和荷红宏鸿华怀欢辉慧佳嘉建江杰"
    "洁锦晶静军君俊康可兰乐雷丽莲良林玲龙露美梅民敏明宁平奇琪强青清庆秋泉然仁荣蓉瑞山胜石淑树思松泰天田文武西希喜霞"
    "祥晓新星雄秀雪雅燕阳艺英永勇友宇玉元远月云泽振正志中竹卓"
)

VOCABULARY: dict[str, dict[str, str]] = {
    "en": {
        "job": "baker teacher doctor farmer painter singer driver nurse tailor gardener lawyer carpenter writer judge "
        "cook fisherman barber librarian postman soldier dentist waiter guard",
        "food": "bread rice cheese apples grapes honey soup noodles carrots beans pears milk cakes plums nuts cherries "
        "potatoes melons corn eggs",
        "instrument": "piano violin flute guitar drum harp trumpet cello horn banjo",
        "animal": "cat dog rabbit horse goat parrot turtle mouse pony duck sheep monkey fox hen",
        "product": "shoes clocks paper glass toys chairs lamps hats bicycles carpets knives bells pots silk tea salt "
        "coffee wool soap candles radios boots pencils sugar",
        "subject": "music history mathematics dancing drawing geography chemistry swimming physics grammar",
        "exhibit": "coins maps stones masks stamps fossils swords statues kites vases photographs insects",
        "topic": "love war winter gardens pirates friendship ghosts travel stars bees justice wolves trains money",
        "fish": "trout salmon carp pike eels perch bass crabs",
        "colour": "red blue green black white brown grey yellow pink purple silver golden",
        "spot": "basket kitchen garden barn hall cellar attic stable shed box",
        "sport": "football tennis hockey rugby chess volleyball basketball cricket golf handball",
        "festival": "lantern kite flower harvest snow boat wine fire bread moon rice mask",
        "person_noun": "boy girl man woman child farmer teacher neighbour friend",
        "thing": "table door window bag tree house chair bridge road wall",
        "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    },
    "zh": {
        "job": "老师 医生 农民 画家 歌手 司机 护士 裁缝 园丁 律师 木匠 作家 法官 厨师 渔夫 记者 邮差 军人 牙医 "
        "警察 工人 导游",
        "food": "面包 米饭 奶酪 苹果 葡萄 蜂蜜 面条 胡萝卜 豆腐 梨子 牛奶 蛋糕 李子 花生 樱桃 土豆 西瓜 玉米 鸡蛋 饺子",
        "instrument": "钢琴 小提琴 笛子 吉他 古筝 二胡 琵琶 喇叭 大提琴 口琴",
        "animal": "猫 狗 兔子 马 山羊 鹦鹉 乌龟 老鼠 鸭子 绵羊 猴子 狐狸 母鸡 鸽子",
        "product": "皮鞋 钟表 纸张 玻璃 玩具 椅子 台灯 帽子 自行车 地毯 菜刀 铃铛 陶器 丝绸 茶叶 食盐 咖啡 羊毛 "
        "肥皂 蜡烛 收音机 雨伞 铅笔 白糖",
        "subject": "音乐 历史 数学 舞蹈 绘画 地理 化学 游泳 物理 语文",
        "exhibit": "钱币 地图 石头 面具 邮票 化石 刀剑 雕像 风筝 花瓶 照片 昆虫",
        "topic": "爱情 战争 冬天 花园 海盗 友谊 鬼怪 旅行 星星 蜜蜂 正义 狼群 火车 金钱",
        "fish": "鲤鱼 鲫鱼 草鱼 鲈鱼 鳗鱼 螃蟹 青虾 鲑鱼",
        "colour": "红色 蓝色 绿色 黑色 白色 棕色 灰色 黄色 粉色 紫色 银色 金色",
        "spot": "篮子里 厨房里 花园里 谷仓里 客厅里 地窖里 阁楼上 马棚里 沙发上 箱子里",
        "sport": "足球 网球 冰球 橄榄球 象棋 排球 篮球 板球 羽毛球 手球",
        "festival": "灯笼节 风筝节 桃花节 丰收节 冰雪节 龙舟节 美酒节 火把节 泼水节 赏月节 稻米节 面具节",
        "person_noun": "男孩 女孩 叔叔 阿姨 孩子 农民 老师 邻居 朋友",
        "thing": "桌子 大门 窗户 书包 大树 房子 椅子 小桥 马路 围墙",
        "day": "星期一 星期二 星期三 星期四 星期五 星期六 星期日",
    },
}

EVERYDAY: dict[str, str] = {
    "en": "The weather was fine on {day}.|It often rains there in the spring.|Many people came to see it.|"
    "The {person_noun} put the {thing} next to the {thing2}.|A {colour} {animal} sat under the {thing}.|"
    "The {person_noun} ate {food} and drank some water.|On {day} the {person_noun} stayed at home all day.|"
    "We sold the old {thing} last {day}.|The {animal} ran past the {thing} and stopped.|"
    "My {person_noun} wants to buy {product} in the shop.|Nobody knows why the {thing} is {colour}.|"
    "The shop on the corner sells {product} and {product2}.|The people there are friendly and work hard.|"
    "It was a cold and quiet winter.|Every {day} the children play {sport} after school.|"
    "If it is warm, the {person_noun} walks to the market.|Please close the {thing} before you leave.|"
    "The {person_noun} who lives here likes {topic} and {food}.|There is a {thing} between the {thing2} and the road.",
    "zh": "{day}的天气很好。|那里的春天经常下雨。|很多人都来看过。|{person_noun}站在{thing}旁边。|"
    "一只{animal}坐在{thing}下面。|{person_noun}吃了{food}，又喝了一杯水。|{day}，{person_noun}整天都在家里。|我们上个{day}卖掉了旧{thing}。|"
    "{animal}从{thing}前面跑过去了。|我的{person_noun}想去商店买{product}。|没有人知道{thing}为什么是{colour}的。|"
    "街角的商店卖{product}和{product2}。|那里的人很热情，也很勤劳。|那年冬天又冷又安静。|每到{day}，孩子们放学以后都打{sport}。|"
    "如果天气暖和，{person_noun}就走路去市场。|出门以前请关好{thing}。|住在这里的{person_noun}喜欢{food}。|"
    "{thing}和{thing2}中间有一条小路。",
}
"""Sentences that state no fact. Those without `{` fit into any passage: they name nothing that could be an answer."""

Texts = tuple[str, str, str, str]

ENGLISH: dict[str, Texts] = {
    "person.born": (
        "was born in {v}|came into the world in {v}|has lived since {v}",
        "The birth of {s} was in {v}.|In {v} a child named {s} was born.",
        "When was {s} born?|In which year was {s} born?|What is the birth year of {s}?",
        "Who was born in {v}?|Who came into the world in {v}?|Whose birth year is {v}?",
    ),
    "person.home": (
        "lives in {v}|has a small house in {v}|moved to {v} as a child",
        "The home of {s} is in {v}.|People in {v} know {s} well.",
        "Where does {s} live?|In which town does {s} live?|Where is the home of {s}?",
        "Who lives in {v}?|Whose home is in {v}?|Which person lives in {v}?",
    ),
    "person.job": (
        "works as a {v}|earns money as a {v}|is a {v} by trade",
        "The job of {s} is that of a {v}.|Everyone knows {s} as a good {v}.",
        "What is the job of {s}?|What does {s} work as?|How does {s} earn money?",
        "Who works as a {v}?|Who is a {v} by trade?|Who earns money as a {v}?",
    ),
    "person.likes": (
        "likes to eat {v}|eats {v} every morning|is very fond of {v}",
        "The favourite food of {s} is {v}.|For dinner {s} always wants {v}.",
        "What does {s} like to eat?|What is the favourite food of {s}?|Which food does {s} like?",
        "Who likes to eat {v}?|Who is fond of {v}?|Whose favourite food is {v}?",
    ),
    "person.plays": (
        "plays the {v} in the evening|has learned to play the {v}|owns an old {v}",
        "The instrument of {s} is the {v}.|At parties {s} plays the {v}.",
        "What does {s} play?|Which instrument does {s} play?|What is the instrument of {s}?",
        "Who plays the {v}?|Whose instrument is the {v}?|Who has learned the {v}?",
    ),
    "person.pet": (
        "keeps a {v} at home|takes care of a {v}|got a {v} as a present",
        "The pet of {s} is a {v}.|A {v} lives in the house of {s}.",
        "Which animal does {s} keep?|What pet does {s} have?|What is the pet of {s}?",
        "Who keeps a {v}?|Who has a {v} as a pet?|Whose pet is a {v}?",
    ),
    "town.river": (
        "lies on the {v}|was built beside the {v}|gets its water from the {v}",
        "The {v} flows through {s}.|The bridges of {s} cross the {v}.",
        "Which river flows through {s}?|On which river does {s} lie?|What is the river of {s}?",
        "Which town lies on the {v}?|Which town is beside the {v}?|Through which town does the {v} flow?",
    ),
    "town.population": (
        "has {v} inhabitants|is home to {v} people|counts {v} citizens today",
        "About {v} people live in {s}.|The population of {s} is {v}.",
        "How many people live in {s}?|What is the population of {s}?|How many inhabitants does {s} have?",
        "Which town has {v} inhabitants?|Where do {v} people live?|Which town is home to {v} people?",
    ),
    "town.festival": (
        "holds a {v} festival every year|is proud of its {v} festival|invites guests to a {v} festival",
        "People come to {s} for the {v} festival.|Each summer there is a {v} festival in {s}.",
        "Which festival is held in {s}?|What kind of festival does {s} have?|For which festival do people come to {s}?",
        "Which town holds a {v} festival?|Where is the {v} festival?|Which town has a {v} festival?",
    ),
    "town.mayor": (
        "has chosen {v} as its mayor|is led by {v}|has a mayor named {v}",
        "The mayor of {s} is {v}.|As mayor, {v} takes care of {s}.",
        "Who is the mayor of {s}?|Who leads {s}?|What is the name of the mayor of {s}?",
        "Which town is led by {v}?|Of which town is {v} the mayor?|Which town has {v} as its mayor?",
    ),
    "town.known": (
        "is known for its {v}|sells {v} to the whole country|became rich by making {v}",
        "Traders come to {s} to buy {v}.|The best {v} in the country come from {s}.",
        "What is {s} known for?|What do traders buy in {s}?|What does {s} sell?",
        "Which town is known for its {v}?|Where do traders buy {v}?|Which town sells {v}?",
    ),
    "company.founded": (
        "was founded in {v}|started its business in {v}|has existed since {v}",
        "In {v} {s} was set up.|The history of {s} began in {v}.",
        "When was {s} founded?|In which year did {s} start?|What is the founding year of {s}?",
        "Which company was founded in {v}?|Which company started in {v}?|Which company has existed since {v}?",
    ),
    "company.makes": (
        "makes {v}|produces {v} for many countries|earns its money with {v}",
        "The factory of {s} makes {v}.|Shops buy {v} from {s}.",
        "What does {s} make?|What does {s} produce?|Which goods come from {s}?",
        "Which company makes {v}?|Who produces {v}?|Which company earns its money with {v}?",
    ),
    "company.seat": (
        "has its main office in {v}|is based in {v}|has its seat in {v}",
        "The main office of {s} is in {v}.|In {v} you can visit {s}.",
        "Where is {s} based?|Where is the main office of {s}?|In which town does {s} have its seat?",
        "Which company is based in {v}?|Whose main office is in {v}?|Which company has its seat in {v}?",
    ),
    "company.head": (
        "is run by {v}|belongs to {v}|has {v} as its head",
        "The head of {s} is {v}.|Every day {v} leads the work at {s}.",
        "Who runs {s}?|Who is the head of {s}?|What is the name of the head of {s}?",
        "Which company is run by {v}?|Which company does {v} lead?|Of which company is {v} the head?",
    ),
    "company.workers": (
        "employs {v} people|has {v} workers|gives work to {v} men and women",
        "About {v} people work for {s}.|The number of workers at {s} is {v}.",
        "How many people work for {s}?|How many workers does {s} have?|How many people does {s} employ?",
        "Which company employs {v} people?|Which company has {v} workers?|For which company do {v} people work?",
    ),
    "school.opened": (
        "was opened in {v}|has taught children since {v}|took its first class in {v}",
        "In {v} {s} opened its doors.|The first lesson at {s} was given in {v}.",
        "When was {s} opened?|In which year did {s} open?|Since when has {s} taught children?",
        "Which school was opened in {v}?|Which school opened in {v}?|Which school has taught children since {v}?",
    ),
    "school.pupils": (
        "has {v} pupils|teaches {v} children|has room for {v} pupils",
        "About {v} children go to {s}.|The number of pupils at {s} is {v}.",
        "How many pupils does {s} have?|How many children go to {s}?|What is the number of pupils at {s}?",
        "Which school has {v} pupils?|Which school teaches {v} children?|To which school do {v} children go?",
    ),
    "school.subject": (
        "is famous for its lessons in {v}|is the best place to learn {v}|gives prizes for {v}",
        "Children go to {s} to learn {v}.|Most pupils of {s} choose {v}.",
        "Which subject is {s} famous for?|What do children learn at {s}?|Which subject do most pupils of {s} choose?",
        "Which school is famous for {v}?|Where do children learn {v}?|Which school gives prizes for {v}?",
    ),
    "school.place": (
        "stands in the middle of {v}|lies in {v}|was built near the market of {v}",
        "The children of {v} go to {s}.|You can find {s} in {v}.",
        "Where is {s}?|In which town is {s}?|Where can you find {s}?",
        "Which school is in {v}?|Which school stands in {v}?|To which school do the children of {v} go?",
    ),
    "museum.shows": (
        "shows old {v}|has a large collection of {v}|is full of rare {v}",
        "In {s} you can see many {v}.|People visit {s} because of its {v}.",
        "What does {s} show?|What can you see in {s}?|Which things does {s} collect?",
        "Which museum shows {v}?|Where can you see {v}?|Which museum collects {v}?",
    ),
    "museum.built": (
        "was built in {v}|has been open since {v}|opened in the spring of {v}",
        "In {v} workers built {s}.|The building of {s} dates from {v}.",
        "When was {s} built?|In which year did {s} open?|From which year does {s} date?",
        "Which museum was built in {v}?|Which museum opened in {v}?|Which museum dates from {v}?",
    ),
    "museum.place": (
        "stands in {v}|is on the main square of {v}|can be found in {v}",
        "Visitors of {v} like {s}.|The town of {v} paid for {s}.",
        "Where is {s}?|In which town is {s}?|Where can {s} be found?",
        "Which museum is in {v}?|Which museum stands in {v}?|Which museum can be found in {v}?",
    ),
    "museum.visitors": (
        "has {v} visitors a year|sold {v} tickets last year|welcomes {v} guests every year",
        "Each year {v} people visit {s}.|The number of visitors to {s} is {v}.",
        "How many visitors does {s} have?|How many people visit {s}?|How many guests come to {s}?",
        "Which museum has {v} visitors?|Which museum do {v} people visit?|Which museum welcomes {v} guests?",
    ),
    "book.author": (
        "was written by {v}|is a work of {v}|made {v} famous",
        "The author of {s} is {v}.|It took {v} two years to write {s}.",
        "Who wrote {s}?|Who is the author of {s}?|By whom was {s} written?",
        "Which book was written by {v}?|Which book did {v} write?|What is the title of the book by {v}?",
    ),
    "book.printed": (
        "was printed in {v}|came out in {v}|has been in the shops since {v}",
        "In {v} readers first saw {s}.|The first printing of {s} was in {v}.",
        "When was {s} printed?|In which year did {s} come out?|When did readers first see {s}?",
        "Which book was printed in {v}?|Which book came out in {v}?|Which book did readers first see in {v}?",
    ),
    "book.topic": (
        "is about {v}|tells a story of {v}|says much about {v}",
        "The topic of {s} is {v}.|Those who love stories of {v} read {s}.",
        "What is {s} about?|What is the topic of {s}?|Which topic does {s} have?",
        "Which book is about {v}?|Which book tells a story of {v}?|What is the title of the book about {v}?",
    ),
    "book.pages": (
        "has {v} pages|is {v} pages long|was printed on {v} pages",
        "There are {v} pages in {s}.|A reader of {s} must turn {v} pages.",
        "How many pages does {s} have?|How long is {s}?|What is the number of pages of {s}?",
        "Which book has {v} pages?|Which book is {v} pages long?|In which book are there {v} pages?",
    ),
    "river.length": (
        "is {v} miles long|flows for {v} miles|has a length of {v} miles",
        "The length of {s} is {v} miles.|It is {v} miles from one end of {s} to the other.",
        "How long is {s}?|What is the length of {s}?|How many miles does {s} flow?",
        "Which river is {v} miles long?|Which river flows for {v} miles?|Which river has a length of {v} miles?",
    ),
    "river.mouth": (
        "reaches the sea at {v}|ends near {v}|meets the sea close to {v}",
        "At {v} you see the end of {s}.|Near {v} {s} flows into the sea.",
        "Where does {s} reach the sea?|Near which town does {s} end?|Where does {s} meet the sea?",
        "Which river ends near {v}?|Which river reaches the sea at {v}?|Which river meets the sea close to {v}?",
    ),
    "river.fish": (
        "is full of {v}|is rich in {v}|gives the people many {v}",
        "Fishermen catch {v} in {s}.|In {s} there are a lot of {v}.",
        "What do fishermen catch in {s}?|Which fish live in {s}?|What is {s} full of?",
        "Which river is full of {v}?|Where do fishermen catch {v}?|In which river are there {v}?",
    ),
    "river.mountain": (
        "starts at {v}|comes down from {v}|has its source on {v}",
        "The source of {s} is on {v}.|Snow from {v} feeds {s}.",
        "Where does {s} start?|From which mountain does {s} come?|Where is the source of {s}?",
        "Which river starts at {v}?|Which river comes from {v}?|Which river has its source on {v}?",
    ),
    "ship.captain": (
        "sails under {v}|is led by {v}|has {v} as its captain",
        "The captain of {s} is {v}.|For years {v} has led {s}.",
        "Who is the captain of {s}?|Who leads {s}?|Under whom does {s} sail?",
        "Which ship is led by {v}?|Of which ship is {v} the captain?|Which ship sails under {v}?",
    ),
    "ship.launched": (
        "was launched in {v}|has been at sea since {v}|was finished in {v}",
        "In {v} workers finished {s}.|The first trip of {s} was in {v}.",
        "When was {s} launched?|In which year was {s} finished?|Since when has {s} been at sea?",
        "Which ship was launched in {v}?|Which ship was finished in {v}?|Which ship has been at sea since {v}?",
    ),
    "ship.cargo": (
        "carries {v} across the sea|brings {v} to many lands|is loaded with {v}",
        "The cargo of {s} is {v}.|On board of {s} there is a load of {v}.",
        "What does {s} carry?|What is the cargo of {s}?|What is on board of {s}?",
        "Which ship carries {v}?|Which ship is loaded with {v}?|Which ship brings {v}?",
    ),
    "ship.harbour": (
        "has its harbour in {v}|sails from {v}|comes home to {v} each autumn",
        "The harbour of {s} is {v}.|In {v} people wait for {s}.",
        "Where is the harbour of {s}?|From which town does {s} sail?|Where does {s} come home to?",
        "Which ship sails from {v}?|Which ship has its harbour in {v}?|Which ship comes home to {v}?",
    ),
    "pet.species": (
        "is a young {v}|is a clever {v}|was the smallest {v} on the farm",
        "A friendly {v} is called {s}.|The name of the {v} is {s}.",
        "What animal is {s}?|What kind of animal is {s}?|Which animal is called {s}?",
        "What is the name of the {v}?|What is the {v} called?|How is the {v} called?",
    ),
    "pet.owner": (
        "belongs to {v}|lives with {v}|follows {v} everywhere",
        "The owner of {s} is {v}.|Two years ago {v} bought {s}.",
        "Who owns {s}?|Who is the owner of {s}?|With whom does {s} live?",
        "Which animal belongs to {v}?|Which animal lives with {v}?|What is the name of the animal of {v}?",
    ),
    "pet.colour": (
        "has {v} ears|has a {v} back|wears a {v} ribbon",
        "The colour of {s} is {v}.|You can see from far away that {s} is {v}.",
        "What colour is {s}?|Which colour does {s} have?|What is the colour of {s}?",
        "Which animal is {v}?|Whose colour is {v}?|Which animal has the colour {v}?",
    ),
    "pet.eats": (
        "eats {v}|gets {v} for breakfast|steals {v} at night",
        "The best food for {s} is {v}.|When there is {v}, {s} comes running.",
        "What does {s} eat?|What is the best food for {s}?|What food does {s} get?",
        "Which animal eats {v}?|Which animal gets {v}?|For which animal is {v} the best food?",
    ),
    "pet.sleeps": (
        "sleeps in the {v}|has a bed in the {v}|spends the night in the {v}",
        "At night {s} sleeps in the {v}.|The bed of {s} is in the {v}.",
        "Where does {s} sleep?|Where is the bed of {s}?|Where does {s} spend the night?",
        "Which animal sleeps in the {v}?|Whose bed is in the {v}?|Which animal spends the night in the {v}?",
    ),
    "team.sport": (
        "plays {v}|is good at {v}|has won many games of {v}",
        "The sport of {s} is {v}.|Every week {s} plays {v}.",
        "What does {s} play?|Which sport does {s} play?|What is the sport of {s}?",
        "Which team plays {v}?|Which team is good at {v}?|Whose sport is {v}?",
    ),
    "team.colour": (
        "plays in {v} shirts|has a {v} flag|wears {v} shirts",
        "The colour of {s} is {v}.|Friends of {s} wave a {v} flag.",
        "What is the colour of {s}?|Which colour does {s} wear?|What colour is the flag of {s}?",
        "Which team wears {v}?|Whose colour is {v}?|Which team has a {v} flag?",
    ),
    "team.coach": (
        "is trained by {v}|has {v} as its coach|learns from {v}",
        "The coach of {s} is {v}.|For three years {v} has trained {s}.",
        "Who trains {s}?|Who is the coach of {s}?|From whom does {s} learn?",
        "Which team is trained by {v}?|Which team does {v} train?|Of which team is {v} the coach?",
    ),
    "team.place": (
        "comes from {v}|has its field in {v}|trains in {v} every day",
        "The field of {s} is in {v}.|The people of {v} are proud of {s}.",
        "Where does {s} come from?|In which town does {s} train?|Where is the field of {s}?",
        "Which team comes from {v}?|Which team trains in {v}?|Which team has its field in {v}?",
    ),
}
