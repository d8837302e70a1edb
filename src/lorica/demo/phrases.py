"""What the messages of the demo's task are made of; `{item}` and the other places are filled in by `task.py`."""

NAMES = """
    Alice Amy Anna Ben Bob Clara Daisy Dan Ella Emma Finn Fred George Grace Hans Harry Jack James Jane Jill Joe
    John Kate Leo Lily Lucy Marco Mary Max Mia Nora Oscar Paul Peter Rosa Ruth Sam Sara Sue Tim Tom Willa
""".split()  # noqa: SIM905 - a list would be a line a name

ITEMS = (  # noqa: SIM905 - as above
    "basket, bed, bell, bicycle, blanket, boat, book, bottle, broom, bucket, candle, chair, clock, coat, cup, desk, "
    "doll, drum, hammer, hat, kettle, kite, knife, ladder, lamp, mirror, oven, pan, pillow, plate, ring, rug, shirt, "
    "spoon, table, tent, toy, vase, tea pot, garden chair, music box, rain coat, wooden train, silver spoon, flower pot"
).split(", ")

PROBLEMS = {
    "broken": [
        "Sadly {item} came broken.",
        "I opened the box and {item} was broken.",
        "I found {item} in pieces.",
        "There is a big crack in {item}.",
    ],
    "late": [
        "My problem is that {item} is late.",
        "Why is {item} so late?",
        "We are still waiting for {item}.",
        "It has been many days and {item} has not come.",
    ],
    "wrong": [
        "I asked for a blue one, but {item} is red.",
        "You sent {item} in the wrong size.",
        "I am afraid that {item} is the wrong one.",
        "This is not what I chose: {item} is too small.",
    ],
}

WISHES = {
    "refund": [
        "Please give me my money back.",
        "I would like a refund.",
        "Please give me a refund for it.",
        "I do not want it any more, just pay me back.",
    ],
    "replace": [
        "Please send me a new one.",
        "Please replace it.",
        "I want you to replace it.",
        "Can I have a new one, please?",
    ],
    "call": [
        "Please call me.",
        "Give me a call when you can.",
        "Can somebody ring me this evening?",
        "I would like to talk to someone about it.",
    ],
}

ORDERS = [
    "My order number is {order}.",
    "The number of my order is {order}.",
    "I bought {item} with order {order}.",
    "It is about order {order}.",
    "The paper in the box says {order}.",
    "You will find {item} under number {order}.",
    "Order {order}.",
]

INTRODUCTIONS = [
    "Hello, this is {name}.",
    "My name is {name}.",
    "Hi, {name} here.",
    "Good morning, I am {name}.",
    "Dear shop, my name is {name} and I have a question.",
]

GREETINGS = ["Hello!", "Dear shop,", "Good evening.", "Hi,", ""]

SIGNATURES = [
    "Thank you, {name}",
    "Yours, {name}",
    "With kind wishes, {name}",
    "{name}",
    "Many thanks from {name}",
]

DISTRACTIONS = [
    "My friend {other_name} told me about your shop.",
    "It was a present for {other_name}.",
    "And {other_name} was very sad about it.",
    "The {other_item} from last year is still fine.",
    "I also love the {other_item} that I have from you.",
    "I paid a good deal for it.",
    "I have bought from you for many years.",
    "We live near the old mill.",
    "This never happened to me before.",
    "The weather is lovely here.",
]
