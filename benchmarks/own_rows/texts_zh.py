"""Chinese wordings of the generated comments, in the form of `texts_en`, with characters that nano has seen."""

from __future__ import annotations

WORDS = {
    "who": "朋友|孩子|叔叔|阿姨|老师|家人",
    "when": "今天|上个月|周日|春节|早上|冬天|晚上",
    "n": "2|3|4|5|6|7|8|9",
    "thing": "面|鱼|茶|咖啡|蛋糕|房间|床|花园|老板|早饭",
}
GOOD = "{thing}很美|{thing}很新|{thing}很好看|{who}很喜欢{thing}|{thing}值得来看|{thing}比上次好"
BAD = "{thing}很冷|{thing}很老|{thing}很贵|{who}都怪{thing}|{thing}等了{n}小时|{thing}比上次差"
OPENERS = "{when}去的|和{who}去的|{when}来的|这是我第{n}次来"
ENDS = "下次看看。|这是{when}的事了。|一共花了{n}0元。|写给大家看。"
