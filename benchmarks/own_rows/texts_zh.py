"""Chinese wordings of the generated comments, in the form of `texts_en`, with characters that nano has seen."""

from __future__ import annotations

WORDS = {
    "food": "面|米饭|鱼|鸡|蛋糕|茶|咖啡|面包|豆腐|虾|饺子|菜|螃蟹|牛奶",
    "item": "鞋|帽子|毛衣|灯|手机|箱子|椅子|书|铅笔|琴|床|玻璃杯|钟|刀",
    "who": "朋友|孩子|叔叔|阿姨|老师|邻居|家人|客人|奶奶",
    "when": "今天|上个月|周日|春节|早上|夜里|冬天|晚上|上周|夏天|周三",
    "n": "2|3|4|5|6|7|8|9",
}

KINDS: dict[str, tuple[str, str, str]] = {
    "dinner": (
        "{when}去吃的|和{who}去吃的|我们{n}个人来吃晚饭|这是我第{n}次来|要了{food}和{food}",
        "{food}很好吃|{food}做得好|老板很热情|{food}来得很早|价格公道|{food}量多|{who}都爱吃|店里很安静|{food}又热又新"
        "|我们把{food}吃光了|下次要带{who}来",
        "{food}没法吃|{food}是冷的|老板很冷|{food}等了{n}小时|价格高得怪|{food}量少|{who}都没吃完|店里又黑又冷|{food}像水"
        "|{food}里有虫|下次去找另一家",
    ),
    "purchase": (
        "{when}买的{item}|给{who}买的{item}|这是我第{n}次买{item}|{item}是送给{who}的礼物",
        "{item}很好用|{item}颜色很美|送货很早|质量好|{who}很喜欢|大小正好|用了{n}年都没有掉色|价格公道|店家很热情"
        "|下次要给{who}买一个|没有见过这么好的{item}",
        "{item}没法用|{item}掉色|送货等了{n}周|质量差|{who}没有用过|大小差得多|用了{n}天就开口了|包装里少了一个|价格高得怪"
        "|店家都没有回复|没有见过这么差的{item}",
    ),
    "stay": (
        "{when}住的|和{who}住了{n}天|这是我们第{n}次住|{when}来的",
        "房间很安静|房间很大|床很好睡|从窗户看到花园|早饭很好|老板很热情|房间又新又大|门口就是海|热水很足|{who}都喜欢这里"
        "|下次要住{n}天",
        "夜里都是车|房间很小|床像石板|从窗户只看到墙|早饭很少|老板很冷|房间里有鼠|门口就是工厂|没有热水|{who}都想回家"
        "|住了一天就走了",
    ),
}
"""Openers, good and bad clauses of a comment by what it is about."""

ENDS = "下次看看。|这是{when}的事了。|一共花了{n}0元。|都是我看见的。|写给大家看。|来自第{n}次的客人。"
