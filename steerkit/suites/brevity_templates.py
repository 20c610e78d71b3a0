"""The word-problem templates behind the brevity suite.

In `text`, `[premise|what stands there instead]` marks a premise that the answer needs: the problem has its
left side, the unanswerable twin its right one (empty, or without the number). Braces are filled in: `{a}`,
`{b}`, … with numbers drawn from `ranges`; `{name}`, `{friend}`, `{third}` with three different first names;
`{they}` and `{them}` with the pronouns of `{name}`; `{things}` with a plural from `things`. `steps` gives the
result of every step of the solution, the last one being the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of word problem."""

    text: str
    ranges: dict[str, tuple[int, int]]
    steps: Callable[..., tuple[Fraction, ...]]
    things: tuple[str, ...] = ()


SHE, HE = ("she", "her"), ("he", "him")

FIRST_NAMES = {
    "Ada": SHE, "Bruno": HE, "Carla": SHE, "Dmitri": HE, "Elena": SHE, "Farid": HE, "Greta": SHE,
    "Hugo": HE, "Ines": SHE, "Jonas": HE, "Keiko": SHE, "Liam": HE, "Mina": SHE, "Nikhil": HE,
    "Olga": SHE, "Pedro": HE, "Rosa": SHE, "Samir": HE, "Tessa": SHE, "Umar": HE, "Vera": SHE,
    "Walter": HE, "Yara": SHE, "Zane": HE,
}  # fmt: skip

KEEPSAKES = ("marbles", "stickers", "stamps", "shells", "coins", "beads", "badges", "buttons", "postcards")
FRUIT = ("apples", "pears", "plums", "lemons", "oranges", "peaches", "mangoes", "limes", "apricots", "figs")
GOODS = ("pencils", "notebooks", "candles", "mugs", "erasers", "scarves", "kites", "brushes", "bowls", "maps")
SUPPLIES = ("pencils", "notebooks", "erasers", "folders", "brushes", "rulers")
PLANTS = ("tulips", "roses", "cabbages", "bushes", "vines", "ferns", "lettuces", "sunflowers")

LEVEL_1 = (
    Template(
        "{name} has {a} {things}. {friend} gives {them} [{b}|some] more. How many {things} does {name} have now?",
        {"a": (2, 9), "b": (1, 5)},
        lambda a, b: (a + b,),
        KEEPSAKES,
    ),
    Template(
        "There are {a} {things} in a bowl. {name} eats [{b}|some] of them. How many {things} are left in the bowl?",
        {"a": (4, 10), "b": (1, 5)},
        lambda a, b: (a - b,),
        FRUIT,
    ),
    Template(
        "{name} buys {a} {things} on Monday and [{b}|some] {things} on Tuesday. How many {things} did {they} buy?",
        {"a": (2, 9), "b": (2, 6)},
        lambda a, b: (a + b,),
        GOODS,
    ),
    Template(
        "{a} birds sit on a roof. [{b}|Some] more birds join them. How many birds sit on the roof now?",
        {"a": (2, 9), "b": (2, 6)},
        lambda a, b: (a + b,),
    ),
    Template(
        "{name} had {a} dollars and spent [{b} dollars|some of them] on a snack. How many dollars are left?",
        {"a": (5, 10), "b": (2, 4)},
        lambda a, b: (a - b,),
    ),
    Template(
        "{name} is {a} years old. {friend} is [{b} years|] older. How old is {friend}?",
        {"a": (4, 12), "b": (2, 5)},
        lambda a, b: (a + b,),
    ),
    Template(
        "A team scored {a} goals before the break and [{b}|more] goals after it. How many goals did it score?",
        {"a": (2, 6), "b": (2, 5)},
        lambda a, b: (a + b,),
    ),
    Template(
        "{name} planted {a} {things}, and [{b}|some] of them died in the frost. How many {things} are alive?",
        {"a": (5, 10), "b": (1, 4)},
        lambda a, b: (a - b,),
        PLANTS,
    ),
    Template(
        "There were {a} people on a bus, and [{b}|some] more got on. How many people are on the bus now?",
        {"a": (3, 10), "b": (2, 6)},
        lambda a, b: (a + b,),
    ),
    Template(
        "{name} read {a} pages in the morning and [{b} pages|a few pages] in the evening. How many pages did "
        "{they} read that day?",
        {"a": (3, 12), "b": (2, 8)},
        lambda a, b: (a + b,),
    ),
    Template(
        "{name} has {a} {things} and loses [{b}|some] of them. How many {things} does {they} have now?",
        {"a": (5, 12), "b": (1, 4)},
        lambda a, b: (a - b,),
        KEEPSAKES,
    ),
    Template(
        "A shelf holds {a} red books and [{b}|some] blue books. How many books does the shelf hold?",
        {"a": (2, 10), "b": (2, 8)},
        lambda a, b: (a + b,),
    ),
    Template(
        "{name} walked {a} miles and then [{b} miles|a bit] more. How many miles did {they} walk?",
        {"a": (2, 8), "b": (2, 6)},
        lambda a, b: (a + b,),
    ),
)

LEVEL_2 = (
    Template(
        "{name} has {a} {things}. {friend} gives {them} [{b}|some] more {things}. How many {things} does "
        "{name} have now?",
        {"a": (3, 20), "b": (2, 12)}, lambda a, b: (a + b,), KEEPSAKES,
    ),
    Template(
        "There are {a} {things} on the table. {name} takes [{b}|some] of them. How many {things} are "
        "left on the table?",
        {"a": (6, 20), "b": (2, 12)}, lambda a, b: (a - b,), FRUIT,
    ),
    Template(
        "{name} has [{a}|several] boxes with {b} {things} in each box. How many {things} does {name} "
        "have in all?",
        {"a": (2, 9), "b": (2, 10)}, lambda a, b: (a * b,), KEEPSAKES,
    ),
    Template(
        "{name} shares {a} {things} equally among [{b}|some] friends and keeps none. How many {things} "
        "does each friend get?",
        {"a": (6, 40), "b": (2, 8)}, lambda a, b: (a / b,), FRUIT,
    ),
    Template(
        "{name} is reading a book that has {a} pages. {They} has read [{b} pages|a few pages] so far. "
        "How many pages are left to read?",
        {"a": (20, 60), "b": (5, 40)}, lambda a, b: (a - b,),
    ),
    Template(
        "At a market, {things} cost [{a} dollars each|the same amount each]. {name} buys {b} of them. "
        "How many dollars does {they} pay?",
        {"a": (2, 9), "b": (2, 9)}, lambda a, b: (a * b,), GOODS,
    ),
    Template(
        "A bus carries {a} passengers. At the next stop nobody gets off and [{b} people|some people] get "
        "on. How many passengers are on the bus now?",
        {"a": (5, 30), "b": (2, 15)}, lambda a, b: (a + b,),
    ),
    Template(
        "{name} is {a} years old. {friend} is [{b} years|] older than {name}. How old is {friend}?",
        {"a": (5, 30), "b": (2, 15)}, lambda a, b: (a + b,),
    ),
    Template(
        "{name} had {a} dollars and spent [{b} dollars|some money] on lunch. How many dollars does "
        "{they} have left?",
        {"a": (10, 40), "b": (3, 25)}, lambda a, b: (a - b,),
    ),
    Template(
        "A gardener plants {a} rows of {things} with [{b}|the same number of] {things} in every row. How "
        "many {things} does the gardener plant?",
        {"a": (2, 9), "b": (3, 10)}, lambda a, b: (a * b,), PLANTS,
    ),
    Template(
        "{name} ran {a} kilometers on Saturday and [{b} kilometers|some more] on Sunday. How many "
        "kilometers did {they} run in total?",
        {"a": (3, 15), "b": (4, 18)}, lambda a, b: (a + b,),
    ),
    Template(
        "A ribbon is {a} centimeters long. {name} cuts it into [{b}|several] pieces of equal length. How "
        "many centimeters long is each piece?",
        {"a": (10, 60), "b": (2, 9)}, lambda a, b: (a / b,),
    ),
    Template(
        "{name} has {a} {things}. {friend} has [{b}|fewer] {things}. How many more {things} does {name} "
        "have than {friend}?",
        {"a": (6, 25), "b": (2, 20)}, lambda a, b: (a - b,), KEEPSAKES,
    ),
    Template(
        "A train ride takes {a} minutes. {name} has been on the train [for {b} minutes|for a while]. How "
        "many minutes of the ride are left?",
        {"a": (20, 60), "b": (5, 45)}, lambda a, b: (a - b,),
    ),
    Template(
        "A cake recipe needs {a} eggs. {name} has only [{b} eggs|a few eggs]. How many more eggs does "
        "{they} need for the recipe?",
        {"a": (5, 16), "b": (2, 12)}, lambda a, b: (a - b,),
    ),
)  # fmt: skip

LEVEL_3 = (
    Template(
        "{name} has {a} {things}. {They} finds {b} more and then gives [{c}|some] of them to {friend}. "
        "How many {things} does {name} have left?",
        {"a": (8, 30), "b": (3, 15), "c": (2, 20)}, lambda a, b, c: (a + b, a + b - c), KEEPSAKES,
    ),
    Template(
        "{name} buys {a} {things} that cost {b} dollars each. {They} pays with [{c} dollars|a large "
        "bill]. How many dollars does {they} get back?",
        {"a": (2, 6), "b": (2, 9), "c": (20, 50)}, lambda a, b, c: (a * b, c - a * b), GOODS,
    ),
    Template(
        "{name} has [{a}|a number of] {things}. {friend} has twice as many. How many {things} do the two "
        "of them have together?",
        {"a": (4, 25)}, lambda a: (2 * a, 3 * a), KEEPSAKES,
    ),
    Template(
        "Every gift bag holds {a} red {things} and {b} blue {things}. How many {things} are needed to "
        "fill [{c} gift bags|all the gift bags]?",
        {"a": (2, 8), "b": (2, 8), "c": (3, 9)}, lambda a, b, c: (a + b, (a + b) * c), KEEPSAKES,
    ),
    Template(
        "{name} bakes {a} cookies. {They} eats {b} of them and packs the rest into [{c}|some] bags, the "
        "same number in each. How many cookies are in each bag?",
        {"a": (15, 50), "b": (2, 8), "c": (2, 9)}, lambda a, b, c: (a - b, (a - b) / c),
    ),
    Template(
        "{name} saves {a} dollars every week for {b} weeks and then spends [{c} dollars|some of the "
        "money] on a gift. How many dollars does {they} have left?",
        {"a": (3, 12), "b": (3, 9), "c": (5, 40)}, lambda a, b, c: (a * b, a * b - c),
    ),
    Template(
        "A parking lot has {a} rows with {b} spaces in each row. [{c}|Some] of the spaces are taken. How "
        "many spaces are free?",
        {"a": (3, 9), "b": (5, 12), "c": (6, 60)}, lambda a, b, c: (a * b, a * b - c),
    ),
    Template(
        "A ticket costs {a} dollars and a snack [costs {b} dollars|costs extra]. {c} friends each buy "
        "one ticket and one snack. How many dollars do they spend in all?",
        {"a": (4, 12), "b": (2, 6), "c": (3, 8)}, lambda a, b, c: (a + b, (a + b) * c),
    ),
    Template(
        "{name} picks {a} {things} in the morning and {b} {things} in the afternoon. {They} packs them "
        "in baskets with [{c} {things}|the same number of {things}] in each. How many baskets does "
        "{they} fill?",
        {"a": (8, 30), "b": (8, 30), "c": (3, 9)}, lambda a, b, c: (a + b, (a + b) / c), FRUIT,
    ),
    Template(
        "A train has {a} cars with {b} passengers in each car. At the station, [{c}|some] passengers get "
        "off and nobody gets on. How many passengers are left on the train?",
        {"a": (3, 8), "b": (10, 25), "c": (5, 60)}, lambda a, b, c: (a * b, a * b - c),
    ),
    Template(
        "{name} is {a} years old. {friend} is [{b} years|] younger than {name}. How old will {friend} be "
        "in {c} years?",
        {"a": (15, 50), "b": (2, 14), "c": (3, 20)}, lambda a, b, c: (a - b, a - b + c),
    ),
    Template(
        "{name} walks {a} blocks to work every morning and the same way back every evening. How many "
        "blocks does {they} walk in [{b}|a few] days?",
        {"a": (3, 12), "b": (3, 9)}, lambda a, b: (2 * a, 2 * a * b),
    ),
    Template(
        "An empty tank holds {a} liters. {name} pours in {b} buckets of water, [{c} liters each|all of "
        "the same size]. How many more liters fit into the tank?",
        {"a": (40, 100), "b": (2, 7), "c": (3, 10)}, lambda a, b, c: (b * c, a - b * c),
    ),
    Template(
        "A shop sold {a} {things} on Monday, {b} on Tuesday and [{c}|a few more] on Wednesday. How many "
        "{things} did the shop sell over the three days?",
        {"a": (5, 30), "b": (5, 30), "c": (5, 30)}, lambda a, b, c: (a + b, a + b + c), GOODS,
    ),
    Template(
        "{name} and {friend} share the cost of a meal equally. The food costs [{a} dollars|more than the "
        "drinks] and the drinks cost {b} dollars. How many dollars does {name} pay?",
        {"a": (20, 60), "b": (4, 18)}, lambda a, b: (a + b, (a + b) / 2),
    ),
)  # fmt: skip

LEVEL_4 = (
    Template(
        "{name} earns {a} dollars an hour. {They} works {b} hours on Friday and {c} hours on Saturday, "
        "and then spends [{d} dollars|some of the money] on shoes. How many dollars does {they} have "
        "left?",
        {"a": (8, 20), "b": (2, 8), "c": (2, 8), "d": (15, 80)},
        lambda a, b, c, d: (b + c, a * (b + c), a * (b + c) - d),
    ),
    Template(
        "{name} bakes {a} trays of muffins with {b} muffins on each tray. {They} sells {c} muffins and "
        "packs the rest into [{d}|several] boxes, the same number in each. How many muffins are in each "
        "box?",
        {"a": (3, 8), "b": (6, 12), "c": (5, 40), "d": (2, 9)},
        lambda a, b, c, d: (a * b, a * b - c, (a * b - c) / d),
    ),
    Template(
        "{a} adults and {b} children visit a museum. An adult ticket costs {c} dollars and a child "
        "ticket [costs {d} dollars|is cheaper]. How many dollars do the tickets cost in total?",
        {"a": (2, 8), "b": (3, 12), "c": (10, 20), "d": (3, 9)},
        lambda a, b, c, d: (a * c, b * d, a * c + b * d),
    ),
    Template(
        "{name} has {a} {things}. {friend} has twice as many {things} as {name}, and {third} has [{b}|a "
        "few] fewer {things} than {friend}. How many {things} do the three of them have together?",
        {"a": (8, 30), "b": (2, 15)}, lambda a, b: (2 * a, 2 * a - b, 5 * a - b), KEEPSAKES,
    ),
    Template(
        "A school orders {a} packs of {b} red {things} and {c} packs of [{d}|some] green {things}. How "
        "many {things} does the school order?",
        {"a": (3, 9), "b": (4, 12), "c": (3, 9), "d": (4, 12)},
        lambda a, b, c, d: (a * b, c * d, a * b + c * d), SUPPLIES,
    ),
    Template(
        "A farmer has {a} hens, and every hen lays {b} eggs a week. After {c} weeks the farmer has sold "
        "[{d}|many] of the eggs. How many eggs are left?",
        {"a": (4, 12), "b": (3, 6), "c": (2, 6), "d": (10, 120)},
        lambda a, b, c, d: (a * b, a * b * c, a * b * c - d),
    ),
    Template(
        "{name} reads {a} pages of a book on Monday and twice as many on Tuesday. The book has [{b} "
        "pages|a lot of pages]. How many pages does {they} still have to read?",
        {"a": (8, 30), "b": (60, 180)}, lambda a, b: (2 * a, 3 * a, b - 3 * a),
    ),
    Template(
        "A hall has {a} rows with {b} seats in each row. {c} adults and [{d}|some] children come in, and "
        "each of them takes one seat. How many seats stay empty?",
        {"a": (6, 12), "b": (8, 15), "c": (10, 40), "d": (5, 40)},
        lambda a, b, c, d: (a * b, c + d, a * b - c - d),
    ),
    Template(
        "{name} buys {a} shirts that cost {b} dollars each and a jacket that costs {c} dollars. A coupon "
        "takes [{d} dollars|a few dollars] off the total. How many dollars does {they} pay?",
        {"a": (2, 6), "b": (8, 20), "c": (25, 60), "d": (5, 20)},
        lambda a, b, c, d: (a * b, a * b + c, a * b + c - d),
    ),
    Template(
        "A bicycle trip is [{d} kilometers|very] long. {name} rides {a} kilometers an hour for {b} "
        "hours, rests, and rides another {c} kilometers. How many kilometers are left?",
        {"a": (10, 20), "b": (2, 5), "c": (5, 25), "d": (60, 160)},
        lambda a, b, c, d: (a * b, a * b + c, d - a * b - c),
    ),
    Template(
        "{name} cuts {a} meters of rope into pieces that are {b} meters long. {They} sells each piece "
        "for [{c} dollars|the same price] and pays {d} dollars for the market stall. How many dollars "
        "does {they} have in the end?",
        {"a": (20, 80), "b": (2, 5), "c": (3, 9), "d": (5, 30)},
        lambda a, b, c, d: (a / b, a / b * c, a / b * c - d),
    ),
)  # fmt: skip

LEVEL_5 = (
    Template(
        "{name} plants {a} rows of {b} tulips and {c} rows of {d} roses. Rabbits eat [{e}|some] of the "
        "flowers. How many flowers are left?",
        {"a": (3, 9), "b": (4, 12), "c": (3, 9), "d": (4, 12), "e": (5, 40)},
        lambda a, b, c, d, e: (a * b, c * d, a * b + c * d, a * b + c * d - e),
    ),
    Template(
        "{name} earns {a} dollars an hour and works {b} hours a day for {c} days. {They} pays [{d} "
        "dollars|some of it] for rent and saves half of the rest. How many dollars does {they} save?",
        {"a": (10, 20), "b": (4, 8), "c": (4, 10), "d": (100, 400)},
        lambda a, b, c, d: (a * b, a * b * c, a * b * c - d, (a * b * c - d) / 2),
    ),
    Template(
        "A van drives for {a} hours at {b} kilometers an hour and then for [{c} hours|some time] at {d} "
        "kilometers an hour. The whole trip is {e} kilometers long. How many kilometers are left?",
        {"a": (2, 5), "b": (40, 80), "c": (2, 5), "d": (40, 80), "e": (300, 900)},
        lambda a, b, c, d, e: (a * b, c * d, a * b + c * d, e - a * b - c * d),
    ),
    Template(
        "A school has {a} classes with {b} students in each class. On the day of a trip {c} students are "
        "ill. The others ride in full vans that hold {d} students each, and every van costs [{e} "
        "dollars|the same]. How many dollars do the vans cost in total?",
        {"a": (3, 8), "b": (15, 25), "c": (3, 15), "d": (6, 12), "e": (20, 50)},
        lambda a, b, c, d, e: (a * b, a * b - c, (a * b - c) / d, (a * b - c) / d * e),
    ),
    Template(
        "{name} has {a} {things}. {friend} has three times as many {things} as {name}, and {third} has "
        "{b} fewer {things} than {friend}. They put all their {things} together and share them equally "
        "among [{c}|several] children. How many {things} does each child get?",
        {"a": (6, 25), "b": (2, 15), "c": (3, 9)},
        lambda a, b, c: (3 * a, 3 * a - b, 7 * a - b, (7 * a - b) / c), KEEPSAKES,
    ),
    Template(
        "A bakery makes {a} trays of {b} rolls in the morning and {c} trays of {d} rolls in the "
        "afternoon. All the rolls go into bags of [{e} rolls|equal size]. How many bags does the bakery "
        "fill?",
        {"a": (3, 9), "b": (6, 15), "c": (3, 9), "d": (6, 15), "e": (3, 9)},
        lambda a, b, c, d, e: (a * b, c * d, a * b + c * d, (a * b + c * d) / e),
    ),
    Template(
        "{name} buys {a} pens for {b} dollars each and {c} {things} for {d} dollars each. {They} pays "
        "with a gift card[ worth {e} dollars|]. How many dollars are left?",
        {"a": (3, 9), "b": (2, 5), "c": (2, 6), "d": (3, 9), "e": (50, 120)},
        lambda a, b, c, d, e: (a * b, c * d, a * b + c * d, e - a * b - c * d), GOODS,
    ),
    Template(
        "A library has {a} shelves with {b} books on each shelf. {c} of the books are lent out, then {d} "
        "of these are brought back, and [{e}|some] new books arrive. How many books are in the library "
        "now?",
        {"a": (5, 12), "b": (12, 30), "c": (20, 60), "d": (5, 20), "e": (10, 50)},
        lambda a, b, c, d, e: (a * b, a * b - c, a * b - c + d, a * b - c + d + e),
    ),
    Template(
        "{name} saves {a} dollars a week, and {friend} saves twice as much. After {b} weeks they put "
        "their money together and buy a tent for [{c} dollars|less than that]. How many dollars do they "
        "have left?",
        {"a": (5, 15), "b": (4, 12), "c": (50, 200)},
        lambda a, b, c: (2 * a, 3 * a, 3 * a * b, 3 * a * b - c),
    ),
    Template(
        "A rectangular garden is {a} meters long and {b} meters wide. A fence around it costs {c} "
        "dollars a meter, and the gate [costs {d} dollars more|costs extra]. How many dollars do the "
        "fence and the gate cost together?",
        {"a": (8, 25), "b": (4, 15), "c": (3, 9), "d": (20, 90)},
        lambda a, b, c, d: (a + b, 2 * (a + b), 2 * (a + b) * c, 2 * (a + b) * c + d),
    ),
)  # fmt: skip

LEVELS = {1: LEVEL_1, 2: LEVEL_2, 3: LEVEL_3, 4: LEVEL_4, 5: LEVEL_5}
