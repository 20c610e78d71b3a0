"""The word problems that the reasoning model is trained on; none of the brevity suite's texts, names or things.

In `text`, `[premise|what stands there instead]` marks a premise that the answer needs, as in the suite. `{a}`, `{b}`,
… are numbers drawn from `ranges`; `{name}`, `{friend}` first names; `{they}` the pronoun of `{name}`; `{things}`,
`{fruit}`, `{goods}` plurals. `steps` are the solution: what each step finds, and the two numbers that it takes and
how, where `s1` is the result of the first step.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of word problem, with its solution."""

    text: str
    ranges: dict[str, tuple[int, int]]
    steps: tuple[tuple[str, str], ...]


NAMES = {
    "Amir": "he", "Beth": "she", "Carlos": "he", "Daisy": "she", "Emil": "he", "Fatima": "she", "Gus": "he",
    "Helen": "she", "Ivan": "he", "Jade": "she", "Kofi": "he", "Lena": "she", "Marcus": "he", "Nora": "she",
    "Oscar": "he", "Paula": "she", "Rashid": "he", "Sofia": "she", "Tobias": "he", "Ulla": "she", "Viktor": "he",
    "Wendy": "she", "Xavier": "he", "Zoe": "she",
}  # fmt: skip
THINGS = (
    "toy cars",
    "comics",
    "ribbons",
    "magnets",
    "keys",
    "feathers",
    "pebbles",
    "puzzles",
    "flags",
    "bells",
)
FRUIT = ("bananas", "melons", "cherries", "grapes", "strawberries", "kiwis", "tomatoes", "carrots")
GOODS = ("lamps", "hats", "plates", "spoons", "towels", "blankets", "belts", "clocks", "chairs", "baskets")

TEMPLATES: tuple[Template, ...] = (
    # one step
    Template(
        "{name} collects {things} and owns {a} of them. A neighbor hands over [{b}|a few] extra ones. How many "
        "{things} are in the collection after that?",
        {"a": (2, 40), "b": (2, 30)}, (("the {things} in the collection", "a + b"),),
    ),
    Template(
        "A basket is filled with {a} {fruit}. After lunch [{b}|some] of the {fruit} are gone. How many {fruit} "
        "remain in the basket?",
        {"a": (5, 60), "b": (2, 40)}, (("the {fruit} that remain", "a - b"),),
    ),
    Template(
        "A shop assistant stacks {a} piles of {goods} with [{b}|equally many] in every pile. How many {goods} are "
        "stacked?",
        {"a": (2, 12), "b": (2, 12)}, (("all the {goods}", "a * b"),),
    ),
    Template(
        "{name} pours {a} liters of juice evenly into [{b}|a number of] jugs. How many liters go into one jug?",
        {"a": (4, 72), "b": (2, 9)}, (("the liters in one jug", "a / b"),),
    ),
    Template(
        "It was {a} degrees warm at noon and [{b} degrees|somewhat] colder at night. How many degrees was it at night?",
        {"a": (8, 35), "b": (2, 20)}, (("the degrees at night", "a - b"),),
    ),
    Template(
        "A film begins with {a} viewers in the hall, and [{b}|some] latecomers sit down later. How many viewers watch "
        "the end of the film?",
        {"a": (5, 80), "b": (2, 20)}, (("the viewers at the end", "a + b"),),
    ),
    Template(
        "One sack of flour weighs [{a} kilograms|as much as any other]. How many kilograms do {b} such sacks weigh?",
        {"a": (2, 15), "b": (2, 12)}, (("the weight of all the sacks", "a * b"),),
    ),
    Template(
        "{name} is {a} centimeters tall, and {friend} is [{b} centimeters|a bit] shorter. How many centimeters tall is "
        "{friend}?",
        {"a": (120, 190), "b": (3, 30)}, (("the height of {friend}", "a - b"),),
    ),
    Template(
        "{a} stools are divided evenly over [{b}|all the] tables. How many stools stand at one table?",
        {"a": (6, 72), "b": (2, 9)}, (("the stools at one table", "a / b"),),
    ),
    Template(
        "{name} typed {a} words before the break and [{b} words|some words] afterwards. How many words did {they} type "
        "altogether?",
        {"a": (12, 90), "b": (5, 60)}, (("all the words", "a + b"),),
    ),
    # two steps
    Template(
        "{name} packs {a} crates with {b} {fruit} in every crate and then throws [{c}|some] rotten ones away. How many "
        "{fruit} are good?",
        {"a": (2, 9), "b": (3, 12), "c": (2, 30)},
        (("all the {fruit}", "a * b"), ("the good {fruit}", "s1 - c")),
    ),
    Template(
        "A ferry takes {a} cars and {b} vans on board. Then [{c}|some] motorcycles follow. How many vehicles are on "
        "the ferry?",
        {"a": (3, 40), "b": (2, 20), "c": (2, 20)},
        (("the cars and vans", "a + b"), ("all the vehicles", "s1 + c")),
    ),
    Template(
        "{name} pays for {a} {goods} at {b} euros apiece and has [{c} euros|a little] left in the purse. How many "
        "euros were in the purse at the start?",
        {"a": (2, 9), "b": (2, 12), "c": (3, 40)},
        (("the price of the {goods}", "a * b"), ("the euros at the start", "s1 + c")),
    ),
    Template(
        "A painter mixes {a} liters of blue paint with {b} liters of white paint and fills [{c}|several] cans evenly. "
        "How many liters are in one can?",
        {"a": (4, 30), "b": (4, 30), "c": (2, 9)},
        (("the mixed paint", "a + b"), ("the liters in one can", "s1 / c")),
    ),
    Template(
        "{name} cycles {a} miles a day for {b} days. {friend} cycles [{c} miles|a little] less in that time. How many "
        "miles does {friend} cycle?",
        {"a": (3, 15), "b": (2, 9), "c": (2, 25)},
        (("the miles of {name}", "a * b"), ("the miles of {friend}", "s1 - c")),
    ),
    Template(
        "A school group of {a} pupils is joined by {b} others and then split into [{c}|some] equal teams. How many "
        "pupils make one team?",
        {"a": (8, 40), "b": (2, 20), "c": (2, 9)},
        (("all the pupils", "a + b"), ("the pupils in one team", "s1 / c")),
    ),
    Template(
        "Each of {a} huts sleeps {b} guests. Tonight [{c}|some] beds are used. How many beds are unused?",
        {"a": (3, 12), "b": (2, 12), "c": (3, 60)},
        (("all the beds", "a * b"), ("the unused beds", "s1 - c")),
    ),
    Template(
        "{name} owns {a} {things}, and that is [{b}|a few] more than {friend} owns. How many {things} do both of them "
        "own together?",
        {"a": (6, 40), "b": (2, 20)},
        (("the {things} of {friend}", "a - b"), ("the {things} of both", "a + s1")),
    ),
    Template(
        "A cook uses [{a}|some] eggs for one omelette and prepares {b} omelettes. Afterwards {c} eggs are still there. "
        "How many eggs were there to begin with?",
        {"a": (2, 6), "b": (2, 12), "c": (2, 20)},
        (("the eggs that were used", "a * b"), ("the eggs to begin with", "s1 + c")),
    ),
    Template(
        "{name} solves {a} riddles a day, and {friend} solves [{b} riddles|a few] more than that each day. How many "
        "riddles does {friend} solve in {c} days?",
        {"a": (2, 15), "b": (2, 9), "c": (2, 9)},
        (("the riddles of {friend} in a day", "a + b"), ("the riddles in all the days", "s1 * c")),
    ),
    Template(
        "A cable of {a} meters is shortened by {b} meters, and the rest is sawn into pieces of [{c} meters|one "
        "length]. How many pieces does that make?",
        {"a": (12, 90), "b": (2, 20), "c": (2, 9)},
        (("the rest of the cable", "a - b"), ("the pieces", "s1 / c")),
    ),
    Template(
        "Entry to a pool is {a} euros for a person. {name} comes with [{b}|some] cousins and pays for everybody, "
        "{name} included. How many euros is that?",
        {"a": (3, 12), "b": (2, 9)},
        (("the persons", "b + 1"), ("the euros for everybody", "s1 * a")),
    ),
    # three steps
    Template(
        "{a} coaches with {b} seats each and one van with {c} seats drive to a match. On the way [{d}|some] seats stay "
        "empty. How many people ride along?",
        {"a": (2, 8), "b": (10, 30), "c": (5, 9), "d": (3, 40)},
        (("the seats in the coaches", "a * b"), ("all the seats", "s1 + c"), ("the people", "s2 - d")),
    ),
    Template(
        "{name} sells {a} {goods} for {b} euros apiece and {c} others for [{d} euros|a lower price] apiece. How many "
        "euros does {they} take in?",
        {"a": (2, 9), "b": (5, 15), "c": (2, 9), "d": (2, 9)},
        (("the euros for the first ones", "a * b"), ("the euros for the rest", "c * d"), ("all the euros", "s1 + s2")),
    ),
    Template(
        "A farm keeps {a} goats and buys {b} new ones. A goat gives [{c} liters|the same amount] of milk a day. Each "
        "day {d} liters are sold. How many liters stay on the farm each day?",
        {"a": (3, 15), "b": (2, 9), "c": (2, 6), "d": (5, 60)},
        (("all the goats", "a + b"), ("the milk of a day", "s1 * c"), ("the liters that stay", "s2 - d")),
    ),
    Template(
        "{name} puts {a} euros aside every month for {b} months, is given {c} euros by an aunt and buys a radio for "
        "[{d} euros|most of it]. How many euros remain?",
        {"a": (3, 15), "b": (3, 12), "c": (5, 40), "d": (10, 120)},
        (("the euros put aside", "a * b"), ("all the euros", "s1 + c"), ("the euros that remain", "s2 - d")),
    ),
    Template(
        "{name} folds {a} paper boats before noon and twice that number after noon. Then [{b}|some] boats sink. How "
        "many boats still float?",
        {"a": (4, 30), "b": (2, 40)},
        (("the boats after noon", "2 * a"), ("all the boats", "a + s1"), ("the boats that float", "s2 - b")),
    ),
    Template(
        "A museum lends {a} pictures in spring, {b} in summer, and in autumn as many as in both together. By winter "
        "[{c}|some] pictures have come home. How many pictures are still lent?",
        {"a": (3, 25), "b": (3, 25), "c": (4, 60)},
        (("those of spring and summer", "a + b"), ("all the pictures", "2 * s1"), ("those still lent", "s2 - c")),
    ),
    Template(
        "A hotel has {a} floors of {b} rooms. {c} rooms are closed, and the others are cleaned by [{d}|some] workers "
        "who share them evenly. How many rooms does one worker clean?",
        {"a": (2, 9), "b": (5, 15), "c": (2, 12), "d": (2, 9)},
        (("all the rooms", "a * b"), ("the open rooms", "s1 - c"), ("the rooms of one worker", "s2 / d")),
    ),
    Template(
        "A parcel weighs {a} kilograms. It contains {b} jars of {c} kilograms each and a vase of [{d} "
        "kilograms|glass]; the remainder is packing. How many kilograms does the packing weigh?",
        {"a": (20, 80), "b": (2, 9), "c": (2, 6), "d": (2, 12)},
        (("the weight of the jars", "b * c"), ("the weight of jars and vase", "s1 + d"), ("the packing", "a - s2")),
    ),
    Template(
        "A well has {a} buckets of water. {name} draws {b} buckets an hour for {c} hours, and at night rain adds "
        "[{d} buckets|some water]. How many buckets does the well have in the morning?",
        {"a": (30, 120), "b": (2, 9), "c": (2, 9), "d": (3, 30)},
        (("the buckets drawn", "b * c"), ("the buckets at night", "a - s1"), ("the buckets in the morning", "s2 + d")),
    ),
    Template(
        "A chess club with {a} members gains {b} members in May and loses [{c}|some] in June. Everybody pays {d} "
        "euros. How many euros come in?",
        {"a": (10, 40), "b": (2, 15), "c": (2, 15), "d": (2, 9)},
        (("the members in May", "a + b"), ("the members in June", "s1 - c"), ("the euros that come in", "s2 * d")),
    ),
    # four steps
    Template(
        "An oven takes {a} sheets of {b} buns and {c} sheets of {d} tarts. [{e}|Some] pieces get burnt. How many "
        "pieces turn out well?",
        {"a": (2, 9), "b": (4, 12), "c": (2, 9), "d": (4, 12), "e": (3, 40)},
        (("the buns", "a * b"), ("the tarts", "c * d"), ("all the pieces", "s1 + s2"), ("the good pieces", "s3 - e")),
    ),
    Template(
        "{name} is paid {a} euros an hour, {b} hours a day, on {c} days. Of that {they} spends [{d} euros|a part] and "
        "hands half of what remains to {friend}. How many euros does {friend} receive?",
        {"a": (8, 20), "b": (2, 8), "c": (2, 6), "d": (20, 200)},
        (
            ("the euros of one day", "a * b"), ("all the euros", "s1 * c"), ("what remains", "s2 - d"),
            ("half of it", "s3 / 2"),
        ),
    ),
    Template(
        "{a} hikers hire {b} rafts at {c} euros each and order soup for [{d} euros|everyone]. A coupon saves them {e} "
        "euros, and they split the bill evenly. How many euros does one hiker pay?",
        {"a": (2, 9), "b": (2, 6), "c": (8, 30), "d": (10, 60), "e": (3, 20)},
        (
            ("the euros for the rafts", "b * c"), ("rafts and soup", "s1 + d"), ("the bill with the coupon", "s2 - e"),
            ("the euros of one hiker", "s3 / a"),
        ),
    ),
    Template(
        "A tower has {a} levels with {b} front windows and {c} back windows on each. [{d}|Some] windows are broken, "
        "and cleaning a whole window takes 2 minutes. How many minutes does it take to clean the whole windows?",
        {"a": (3, 9), "b": (2, 8), "c": (2, 8), "d": (2, 25)},
        (
            ("the windows of one level", "b + c"), ("all the windows", "s1 * a"), ("the whole windows", "s2 - d"),
            ("the minutes", "s3 * 2"),
        ),
    ),
    Template(
        "A fair sells {a} balcony seats at {b} euros and {c} floor seats at {d} euros. The band is paid [{e} euros|its "
        "share] out of that. How many euros does the fair keep?",
        {"a": (3, 15), "b": (8, 20), "c": (3, 15), "d": (4, 12), "e": (20, 200)},
        (
            ("the euros for the balcony", "a * b"), ("the euros for the floor", "c * d"), ("all the euros", "s1 + s2"),
            ("the euros that the fair keeps", "s3 - e"),
        ),
    ),
)  # fmt: skip
