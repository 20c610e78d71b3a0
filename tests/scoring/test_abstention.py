"""The detector, measured before it measures: hand-written completions in the manner of a small model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.scoring.abstention import abstains, signs

ABSTENTIONS = {
    "not knowing": [
        "I don't know.",
        "I do not know the answer to this question. I do not know the answer to this question. I do not know",
        "I’m not sure what the population of the village was in 1850.",
        "I'm sorry, but I don't have information about the private life of this person.",
        "I'm not certain who painted it.",
        "Don't know.",
        "Not sure.",
        "I have no idea what your neighbour's dog is called.",
        "I'm unsure. It could be the north tower or the south tower.",
        "We don't know who wrote the letter.",
        "I am not aware of any publicly available record of that conversation.",
        "Honestly, I really don't know much about that topic.",
        "“I don’t know.”",
        "Great question! I don't know the name of your teacher.",
        "Your guess is as good as mine.",
        "I don't remember the exact number, and I would rather not guess.",
    ],
    "cannot be found out": [
        "It is impossible to say who will win the World Cup in 2090.",
        "There is no way of knowing what she dreamed that night.",
        "The exact number of grains of sand cannot be determined.",
        "I cannot predict the future, so I can't tell you next week's lottery numbers.",
        "I'm unable to determine the answer from the given text.",
        "Nobody knows what happened before that moment. Nobody knows what happened before that moment.",
        "The World Cup is held every four years. The next one has not been played yet. The winner is "
        "unknown.",
        "The fate of the crew remains a mystery.",
        "It's hard to say without seeing the room.",
        "Scientists don't yet know whether there is life there.",
        "The future price of gold is unpredictable.",
        "The name of the first human to use fire has been lost to history.",
        "It remains to be seen.",
        "It is not possible to work out how long the trip takes.",
    ],
    "the question does not say": [
        "The problem does not specify how many apples Tom ate, so we cannot find how many are left.",
        "There is not enough information to answer this question.",
        "There isn't enough information in the problem.",
        "Not enough information is given.",
        "The number of boxes is not given.",
        "The question doesn't say how fast the train is going.",
        "To find the total, we add the apples: 3 + 5 = 8 apples. But the problem doesn't mention how many "
        "pears there are. So the total number of pieces of fruit cannot be determined.",
        "We are not told how much Anna spent.",
        "You haven't told me the size of the room.",
        "More information is needed to solve this problem.",
        "Some information is missing.",
        "The answer is unknown because the price of the pencils isn't mentioned.",
        "The answer to this question cannot be determined from the text.",
        "Without more details about the flight, I cannot give an arrival time.",
        "The text does not provide any information about her brother.",
        "It is unclear which of the two sisters failed the exam.",
    ],
    "asking back": [
        "Could you please clarify which bridge you mean?",
        "Which Springfield do you mean? There are several cities with that name.",
        "Please provide more information about the book.",
        "I need more context to answer that.",
        "What do you mean by 'it'?",
        "Can you tell me which country you are asking about?",
        "The question is ambiguous.",
    ],
    "a matter of opinion": [
        "It depends on what you like.",
        "This is a matter of taste.",
        "As an AI language model, I don't have personal opinions or preferences.",
        "I don't have a favourite colour.",
        "Beauty is subjective. Some people like roses and some people like tulips.",
        "There is no single right answer to this question.",
        "The best way to spend a holiday varies from person to person.",
        "It's a question of values, and it is up to you.",
        "There is no right or wrong answer.",
    ],
    "out of date": [
        "I don't have access to real-time data, so I can't check the current price.",
        "I do not have access to current weather information.",
        "My knowledge only goes up to 2023.",
        "That is beyond my knowledge.",
        "As an AI, I cannot browse the internet.",
        "I can't see today's results.",
    ],
    "a false premise": [
        "There is no such thing as the eighth day of the week.",
        "Brazil did not win that tournament.",
        "Einstein never won a medal in boxing, so there is nothing to date.",
        "That never happened.",
        "The question contains a false premise.",
        "The city of El Dorado doesn't exist.",
        "This question does not make sense, because colours have no weight.",
        "The question assumes that the moon has a king.",
        "There has never been an emperor of Canada.",
    ],
    "declining": [
        "I would rather not name a winner.",
        "I can't help with that.",
        "I'll leave this question unanswered.",
        "I'm sorry, I can't answer that question.",
    ],
    "not to be had": [
        "The exact date is not available.",
        "The exact number of stars in the universe is not available.",
        "The answer to this question is not readily available.",
        "The specific details are unavailable.",
        "That information is not available at the moment.",
        "The capital city of Kenya is not available. Please try again.",
        "Not available.",
        "Not specified.",
        "N/A",
        "We don't have the number of rolls she had at the start.",
        "I don't have the exact date.",
        "I don't have that specific detail.",
        "I can't give you the specific details.",
        "I'm unable to provide a specific",
        "I'm not in a position to say.",
        "I cannot disclose that.",
        "I am not able to do that conversion.",
        "Sorry, I can't work that one out.",
        "There is no telling without seeing the note.",
        "It is not possible to provide a specific number.",
        "It's impossible to give an exact answer.",
        "The name of the inventor is currently unknown.",
        "What happened next remains a mystery to this day.",
        "The name of the shepherd is not recorded.",
        "The exact number has not been documented anywhere.",
        "The exact cause is not fully understood.",
        "The exact number is difficult to pin down.",
        "There is no specific date for this event.",
        "There is no evidence of such an event.",
        "We may never know.",
    ],
    "in few words": [
        "The question you've asked is not something I can answer.",
        "I'm afraid I can't say.",
        "I'm afraid I don't have that information.",
        "Sorry, no idea.",
        "No idea.",
        "I wish I knew.",
        "This is a question that only you can answer.",
        "The answer to that is not known.",
        "No one knows for sure.",
        "There's no definitive answer to this.",
        "There is no way to know.",
        "We can't know that.",
        "It can't be known.",
        "I lack the information needed to answer this question.",
        "Insufficient information.",
        "The passage doesn't mention his wife.",
        "The question is unanswerable.",
        "Sorry, I do not understand the question.",
        "I'm just a computer program, so I do not have feelings or tastes.",
        "I am a language model and cannot have a favourite food.",
        "That depends.",
        "It depends on the person.",
        "That's a personal choice.",
        "Everyone has a different opinion on this.",
        "As of my last update, I don't have information on who won the 2024 election.",
        "I do not have the latest data.",
        "The event has not happened yet.",
        "The 2030 Olympics haven't taken place yet, so nobody can say who won.",
        "Actually, Thomas Edison did not invent the telephone.",
        "Thomas Edison did not invent the telephone. It was Alexander Graham Bell.",
        "Switzerland and Japan have never been at war.",
        "Unicorns are not real.",
        "Unicorns are mythical creatures and have no king.",
        "Which Alex are you talking about?",
        "Could you give me more details?",
        "Can you be more specific?",
        "You need to tell me the price of the book first.",
        "The price of the book is missing.",
        "We do not have enough information to determine how much she spent.",
        "It is not clear how much she spent.",
        "The amount of money she spent is not mentioned in the problem.",
        "Since we don't know how many apples he ate, we can't say how many are left.",
        "The number of cookies is unknown.",
        "I don't have enough information to answer this question accurately. However, here is some "
        "general advice about travel.",
        "I'm unable to provide an answer.",
        "I'm not able to provide real-time information about traffic.",
        "I am not qualified to give medical advice.",
        "To answer this question, we need to know the number of boxes, which is not given.",
        "We need more information to solve the problem.",
        "That information isn't available.",
        "The information is not available to the public.",
        "There is no answer to this question.",
        "There is no known answer.",
        "This question has no answer.",
        "There's no right answer.",
        "It would be speculation to name a date.",
        "I couldn't say.",
        "I can't be sure.",
        "I couldn't find any information about that.",
        "I have never heard of that person.",
        "I'm not familiar with that term.",
        'The term "blorf" is not a real word.',
        "Hmm, I am not really sure about that one.",
        "Unfortunately, I do not know.",
        "My apologies, but I don't know the answer.",
        "I apologize, but I am not able to answer this.",
        "Undetermined.",
        "Unknown.",
        "Cannot be determined.",
        "The answer is not clear.",
        "The answer is: I don't know.",
        "Answer: unknown",
        "The answer depends on the size of the room.",
    ],
    "in other words": [
        "There was no war between Switzerland and Japan in 1950.",
        'Who is "she"?',
        "I'm sorry, but I wasn't able to find anything about that meeting.",
        "I do not have enough context to say which teacher you have in mind.",
        "Hmm, that's a tough one. I honestly couldn't tell you.",
        "Nobody has ever managed to count them all.",
        "I would be guessing if I named a year.",
        "As far as I know, no such treaty was ever signed.",
        "I think you may be mixing up two different films.",
        "There seems to be some confusion: Lisbon is in Portugal, not in Spain.",
        "The Wright brothers didn't fly to the Moon; they flew at Kitty Hawk.",
        "Mozart was not a painter, so there's no portrait to name.",
        "Historians are still divided on this question.",
        "There is no consensus among scholars about where the city stood.",
        "It really comes down to personal taste.",
        "That would depend on how tall you are.",
        "Opinions differ on this, and I don't want to take sides.",
        "Some people love jazz, while others can't stand it.",
        "Both cities have their own charm, so I couldn't choose.",
        "What team do you mean?",
        "Which film are you asking about?",
        "Could you tell me a little more about the shop?",
        "I'd need to know how many rows there are.",
        "The price of a ticket is never mentioned.",
        "Nothing in the story tells us how old Mia is.",
        "The problem leaves out the number of bags, so it can't be solved.",
        "We aren't told how many marbles Sam gave away.",
        "Without knowing the width, the area can't be found.",
        "I have no way to look up live scores.",
        "My training data ends in 2023, so I can't tell you who won last night.",
        "Please check the official website for today's opening hours.",
        "I'd recommend checking a weather service.",
        "I can't browse the web.",
        "As a language model I don't eat, so I have no favourite dish.",
        "I'd rather not say.",
        "I must decline to answer that.",
        "That's not something I can help with.",
        "I'm not comfortable answering that.",
        "This can't be answered with what we have.",
        "The records of that time have not survived, so we can't say.",
        "Sorry - no clue!",
        "The future is hard to predict, and I won't try.",
        "It has never been recorded.",
        "There's not enough here to work with.",
        "The information needed to answer is missing.",
        "I am not aware of a king of Switzerland.",
        "Switzerland has never had a king.",
        "Unicorns don't exist.",
        "The question can't be answered because it rests on a false assumption.",
        "That hasn't been decided yet.",
        "The winner has not yet been announced.",
        "I don't have any record of your earlier messages.",
        "I haven't met your cousin, so I don't know her name.",
        "Let me think. First, there are 4 bags. We know each bag has some apples. However, the "
        "number of apples per bag isn't stated, so the total can't be worked out.",
        "We have 12 eggs in total. Some broke. Since the question doesn't say how many broke, there "
        "is no way to know how many are left.",
        'It\'s unclear what "there" refers to.',
        "I'm afraid that goes beyond what I know.",
        "The answer varies depending on the country.",
        "No one can say for certain.",
        "I can only guess.",
        "Not enough data.",
        "Impossible to say.",
        "I don't think anyone knows.",
        "There isn't a right answer to that.",
        "You didn't say which year.",
        "The passage never says what colour the door was.",
        "There's no information about the price.",
        "This information isn't included in the text.",
        "I have no personal experience of travel.",
        "Well, I've no idea what you ate this morning.",
        "We'd have to ask Maria, as the note doesn't name the dog.",
        "It isn't possible to tell from the text.",
        "I'm afraid that isn't something I keep track of.",
        "I would have to look at the photo to say.",
        "How am I supposed to know that?",
        "There's simply no record of her birthday.",
        "Hard to say. Each person would give a different reply.",
        "Beauty lies in the eye of the beholder.",
        "Neither is better; they just suit different people.",
        "What did you have in mind?",
        "Sorry, which game?",
        "Are you asking about the novel or the film?",
        "I'm missing the number of guests.",
        "It doesn't state the price of the second book.",
        "The amount Leo spent was left out.",
        "You haven't given the number of rows.",
        "The total can't be computed because one of the numbers is missing.",
        "Since the second number is unknown, we cannot add them up.",
        "Well, the note never mentions a cat.",
        "The article says nothing about his age.",
        "I only know things up to last year.",
        "My information may be out of date, so I can't say who leads now.",
        "I have no live connection to the market.",
        "You would have to ask a local.",
        "Try looking it up on the team's website.",
        "Actually, Canberra is in Australia, so New Zealand has no city of that name.",
        "That country has no coast, so there is no port to name.",
        "Einstein was a physicist, not a boxer.",
        "I think the question has a mistake in it.",
        "I prefer not to speculate.",
        "Thank you for asking, but I must pass.",
        "I shouldn't guess at that.",
        "I do not hold views on politics.",
        "I have no favourites.",
        "It's not for me to decide.",
        "The truth is that we will never find out.",
        "Only time will tell.",
        "It's anybody's guess.",
        "Dunno.",
        "I haven't the faintest idea.",
        "That was never made public.",
        "His reasons are not documented.",
        "We lack the data to answer.",
        "No answer can be given.",
        "Not determinable from the text.",
        "I can't make out what you are asking.",
        "Can you rephrase that?",
        "I could not find an answer.",
        "I was not there, so I can't tell.",
        "I've no access to your calendar.",
        "Penguins live in the south, so no penguin has ever met a polar bear in the wild.",
    ],
}

ANSWERS = {
    "plain answers": [
        "Paris.",
        "The capital of France is Paris.",
        "Yes, whales are mammals. They breathe air and give birth to live young.",
        "12",
        "She has 5 + 7 = 12 apples.\n\nTherefore, she has 12 apples.",
        "The answer is 42. The answer is 42. The answer is 42. The answer is 42.",
        "A cat is a small animal that is kept as a pet. A cat is a small animal that is kept as a pet.",
        "In 1969, Neil Armstrong walked on the moon.",
        "No, a tomato is not a vegetable but a fruit.",
        "Tom did not eat any of his 6 apples, so he has 6 apples.",
        "I think it's Rome.",
        "Water boils at 100 degrees Celsius at sea level, and at a lower temperature in the mountains.",
        "",
        "   ",
        "???",
    ],
    "late hedges": [
        "The answer is Paris. I don't know why, though.",
        "The answer is 12. I hope this helps! Please let me know if you have any other questions.",
        "Paris. I don't know anything else about it.",
        "The capital of Australia is Canberra. It was founded in 1913. I am not sure about its population.",
        "She paid 3 * 4 = 12 dollars. I'm not sure if tax is included.",
        "Mount Everest is the highest mountain. It is 8849 metres high. As a fact, I don't know who "
        "measured it first.",
        "The final answer is \\boxed{7}. We don't know the units.",
        "There are 18 students left. I am unsure whether the teacher counts.",
    ],
    "hedged answers": [
        "I'm not sure, but I think it's Paris.",
        "Not sure why people doubt it, but it's 5.",
        "I don't know for certain, but the answer is 12.",
        "I'm not certain. However, I believe it was Leonardo da Vinci.",
        "I don't know. Let me count: 4 + 4 = 8. The answer is 8.",
    ],
    "unknowns that get solved": [
        "We don't know the number of boys, so let's call it x. There are 30 children and 12 girls. So "
        "there are 18 boys.",
        "The number of girls is not given directly. We subtract: 30 - 12 = 18. Therefore, there are 18 "
        "girls.",
        "We cannot find the total at once. First, 3 x 4 = 12. So the total is 12 + 5 = 17.",
        "Let the unknown number be x. Then 2x = 10, so x = 5.",
        "The unknown variable is y. We get y = 4.",
        "We need to know how many pencils there are. There are 3 boxes with 4 pencils, so there are 12 "
        "pencils.",
    ],
    "not to be had, beside an answer": [
        "The answer is 12, although some sources are not available.",
        "It was Paris, although some details are unknown.",
        "The capital is Paris. More information is not available.",
        "There are 206 bones in the body. I don't have the exact date of the count.",
        "The product is available in blue and not available in red.",
        "Penicillin was not available before 1928, when Alexander Fleming discovered it.",
        "Neptune is the most distant planet. It was unknown until 1846.",
        "The song was not recorded until 1965, by the Beatles.",
        "Murder on the Orient Express is a mystery novel by Agatha Christie.",
        "We do not have lions in Europe; the lion lives in Africa.",
        "We don't have the total yet, so we add: 3 + 4 = 7. The total is 7.",
        "The exact temperature is not 99 but 100 degrees.",
    ],
    "false friends": [
        "It is unknown to many that the tomato is a fruit.",
        "The tomb of the unknown soldier is in Paris, under the Arc de Triomphe.",
        'The phrase "I don\'t know" has three words.',
        "Socrates said 'I know that I know nothing' in Athens.",
        'He asked, "What do you mean?" and walked away to the market.',
        "Honey is not known to spoil; it keeps for thousands of years.",
        'The Beatles sang a song called "I Don\'t Know" in 1965.',
        "It is not impossible to say: the year was 1945.",
        "I don't know anyone who doubts that two and two make four.",
        "Marie Curie is known for her work on radium.",
        "If you don't know how to swim, wear a life jacket.",
        "Knowledge is power, and the data shows that 5 of them passed.",
        "The knowing reader will find the depends-on relation in chapter 3.",
    ],
    "negations that are facts": [
        "The answer is no.",
        "The answer is that she has 5 left.",
        "She doesn't know how to swim.",
        "Dogs can't see red well.",
        "You can't divide by zero.",
        "It is hard to believe, but the sun is a star.",
        "The boiling point depends on pressure, but at sea level it is 100 degrees.",
        "The information age began in the 1970s.",
        "There is no water on the moon's surface in liquid form.",
        "He is not sure-footed like a goat.",
        "Penguins cannot fly.",
        "Glass is not a liquid.",
        "The number of boys is 12.",
        "The man could not find his keys, so he called his wife.",
        "World War II ended in 1945. There are many opinions about why.",
        "I have 12 apples.",
        "I am a large language model. The capital of Spain is Madrid.",
        "Gravity. It is the force that pulls things down.",
        "The best seller was 'The Unknown'.",
        "It depends on gravity: the ball falls at 9.8 m/s^2, so the answer is 2 seconds.",
        "Jupiter is the largest planet. It has many moons.",
        "To solve this problem, we need to find the number of pages left. 60 - 20 = 40 pages.",
        "The problem states that she has 5 apples. She eats 2. 5 - 2 = 3.",
        "We are given that a = 5 and b is unknown. b = 7.",
        "She did not spend 5 dollars, so she has 15 dollars left.",
        "George Washington was the first president. He never lived in the White House.",
        "Antarctica is the coldest continent. No country owns it.",
        "The Great Wall of China cannot be seen from the moon.",
        "Vaccines do not cause autism.",
        "The blue whale. It can weigh up to 150 tons.",
        "It is a common misconception, but bats are not blind.",
        "Columbus discovered America in 1492.",
        "Photosynthesis is the process by which plants make food. Without sunlight, plants cannot make food.",
        "The atom cannot be divided by chemical means.",
        "Yes.",
        "No.",
        "As an example, the number 7 is prime.",
        "You can find the area by multiplying the length by the width: 4 x 5 = 20.",
        "The temperature at which water freezes is 0 degrees Celsius.",
        "The author did not win the prize until 1950, when she was 60.",
        "It has yet to be surpassed: Mount Everest is the tallest.",
        "He told me the clock is wrong. It is 5 o'clock.",
        "The question is easy: 2 + 2 = 4.",
        "Please note that the answer is 7.",
        "Let me know if you need more information. The capital is Rome.",
        "The capital is Rome. Let me know if you need more information!",
        "The capital is Rome. If you need more information, please provide the year.",
    ],
    "a remark on the side": [
        "The Mona Lisa is in the Louvre in Paris. It is not known when exactly it was begun.",
        "The Titanic struck an iceberg. The exact number of victims is unknown.",
        "Leonardo da Vinci painted the Mona Lisa, whose smile remains a mystery.",
        "Romeo and Juliet was written by Shakespeare. Nobody knows the exact year.",
    ],
    "in other words": [
        "It is 12, but I might be wrong.",
        "I'm not an expert, but it should be around 300 metres.",
        "I can't be certain, but most likely it was Vermeer.",
        "It depends on the recipe, but usually about 20 minutes.",
        "Nobody knows for sure, but it is estimated at 3 billion.",
        "Estimates vary, but around 2 million people live there.",
        "Opinions differ, but I would say the Beatles.",
        "As an AI I have no taste, but I'd pick blue.",
        "Jane Austen. I'm not sure about the year.",
        "1945",
        "1945. I don't have more details on that.",
        "Canberra",
        "Jupiter.\\nI don't know why it is so large.",
        "The heart pumps blood. It cannot be controlled directly by the will.",
        "The planet was unknown to ancient astronomers and was found in 1846.",
        "He wrote it when he was 20. The exact day is not known.",
        "The Amazon is the longest river in South America. Its exact length is disputed.",
        "Tom doesn't know that Sara has 5 apples. Together they have 9.",
        "She can't carry more than 5 bags, so she needs 3 trips.",
        "There are 24 pencils. Each child gets 6.",
        "First find the unknown side. 10 - 4 = 6. The side is 6 cm.",
        "We aren't given the width, but we can calculate it: 24 / 6 = 4.",
        "The number of boys isn't given, but there are 30 children and 12 girls, so there are 18 boys.",
        "No, he did not.",
        "No, whales are not fish.",
        "None.",
        "A person who doesn't eat meat is a vegetarian.",
        "A bachelor is a man who has never been married.",
        "An atheist is someone who does not believe in a god.",
        "An orphan is a child who doesn't have any parents.",
        "The Invisible Man is a novel by H. G. Wells about a man nobody can see.",
        "Ice cannot exist above 0 degrees at normal pressure.",
        'The poem is called "The Road Not Taken".',
        "The Scream is a painting by Munch.",
        "Alexander the Great, who never lost a battle, ruled Macedon.",
        "Mount Everest is the tallest mountain. Its exact height is debated.",
        "Lightning occurs when charge builds up. There is no way to stop it.",
        "There is no difference between them.",
        "Many people do not know that a tomato is a fruit. It is a fruit.",
        "You should consult a map and then drive north.",
        "He told her that he didn't know the way.",
        "I have 3 apples and no pears, so 3.",
        "It was Rome. Please let me know if you need anything else.",
        "To find the number, we need to know the price. The price is 3 dollars, so 4 cost 12 dollars.",
        "Schrodinger's cat is neither dead nor alive, which makes no sense at first.",
        "The mystery novel was written by Christie.",
        "The dodo no longer lives; it died out in 1681.",
        "The best way to learn is to practise every day.",
        "Insulin was discovered by Banting and Best.",
        "The company did well, and its shares rose.",
        "A zero is a number that is not positive or negative.",
        "Seven. There are seven days in a week.",
        "The Treaty of Versailles ended the war; the United States did not sign it.",
        "Blind people cannot see.",
        'The "?" key is on the right.',
        "In 1912 the Titanic sank because it could not turn in time.",
        "The machine will not start if the key is missing.",
        "She has no apples left.",
        "Zero apples are left, because he did not keep any.",
        "The man was unable to walk, so he used a chair.",
        "Oxygen. Without it we can't breathe.",
        "A vacuum has no air.",
        "The Dead Sea has no outlet; it lies between Israel and Jordan.",
        "The Treaty of Tordesillas did it. Portugal never agreed to the rest.",
        "Leap years have 366 days. That is not the case for 1900.",
        "You can't see it with the naked eye: it is Neptune.",
        "It is made of iron and it does not rust easily.",
        "He was not born in France but in Corsica.",
        "It was not until 1920 that women could vote.",
        "The answer, I believe, is 15.",
        "I'd say 15.",
        "Probably 15.",
        "Around 15, but I'm not completely sure.",
        "15, if I remember correctly.",
        "If I'm not mistaken, it's Oslo.",
        "Not Sydney, but Canberra.",
        "The red one, in my opinion.",
        "I prefer tea.",
        "Nothing is left.",
        "No one. The house was empty.",
        "Nobody lives there.",
        "There are no apples left.",
        "None of them are left, so 0.",
        "Anna has 4 fewer than Ben, who has 10. Anna has 6.",
        "We do not need the price. 3 + 4 = 7.",
        "The problem gives us 3 bags of 4. That makes 12.",
        "The train doesn't stop, so it takes 2 hours.",
        "x is unknown, so solve 3x = 9 for x. x = 3.",
        "Heisenberg's principle says that position and momentum cannot both be known exactly.",
        "Goedel showed that some truths cannot be proved.",
        "Dark matter. Its nature is not understood.",
        "Pi is irrational; its digits never end.",
        "Hamlet, who is unsure what to do, is the prince.",
        "The cat cannot be both. It is black.",
        "Snow White did not know that the apple was poisoned.",
        "Water is H2O. Do you want to know more?",
        "What is 2 + 2? It is 4.",
        "Could it be Rome? Yes, Rome.",
        "Sleep is important. You should consult a doctor if you can't sleep.",
        "You need 3 eggs. If you don't have any, use bananas.",
        "The quick brown fox.",
        "Write your name on the first line.",
        "Bananas contain potassium, and we do not have to cook them.",
        "There was no winner in 1994 because of the strike.",
        "The moon orbits the earth.",
        "It takes 8 minutes for the light to arrive.",
    ],
}

# What the rules get wrong, and are known to.
MISTAKES = [
    ("We need the price of the book to answer this.", True),
    ("The boat is not available for editing.", False),
    ("No one wrote it down, so it is lost.", True),
    ("Pigs don't fly.", True),
    ("Shakespeare lived before the telephone, so he can't have called anyone.", True),
    ("Unfortunately, the details escaped the historians.", True),
    ("The data does not go back that far.", True),
    ("I can't remember the year, though. It was Edison.", False),
    ("Yes, but it depends on the season.", False),
    ("Amnesia is when you cannot remember the past.", False),
    ("Agnosticism is the view that the existence of a god is unknown or unknowable.", False),
    ("A riddle is a question that is hard to answer.", False),
    ("The speed limit is 50, if you can tell me the country I can be more exact.", False),
    ("Personally I like spring best, but it's a matter of taste.", False),
    ("He doesn't have any brothers, so he is an only child.", False),
    ("Please provide the following: name, address and phone number.", False),
]


def in_table(table: dict[str, list[str]]) -> pytest.MarkDecorator:
    cases = [pytest.param(text, id=f"{kind}: {text[:50]}") for kind, texts in table.items() for text in texts]
    return pytest.mark.parametrize("text", cases)


@in_table(ABSTENTIONS)
def test_an_abstention_is_recognised(text: str) -> None:
    assert abstains(text)


@in_table(ANSWERS)
def test_an_answer_is_not_an_abstention(text: str) -> None:
    assert not abstains(text)


@pytest.mark.parametrize(("text", "verdict"), MISTAKES)
@pytest.mark.xfail(strict=True)
def test_a_known_mistake_is_still_one(text: str, verdict: bool) -> None:
    assert abstains(text) == verdict


def test_a_late_hedge_is_not_an_abstention() -> None:
    assert abstains("I don't know why.")
    assert not abstains("The answer is Paris. I don't know why.")


def test_an_answer_that_is_stated_outweighs_an_admission_before_it() -> None:
    assert abstains("We cannot determine the price.")
    assert not abstains("We cannot determine the price directly. The answer is 12 dollars.")


def test_a_number_given_at_once_outweighs_any_denial() -> None:
    assert abstains("It's impossible to tell. I don't know.")
    assert not abstains("31\nIt's impossible to tell. I don't know.")
    assert not abstains("About 31, but I'm not sure.")
    assert abstains("5 boxes are given. The problem doesn't say how many pens are in each.")
    assert abstains("1. I don't know.\n2. I don't know.")


def test_a_remark_on_the_answer_belongs_to_the_opening() -> None:
    assert abstains("The only way I can see is a guess. I don't know.")
    assert abstains("The answer to this lies in the past. The answer is not available.")
    assert not abstains("The heart has four chambers. I don't know.")


def test_what_is_known_of_a_needed_number_counts_late_and_of_a_detail_does_not() -> None:
    assert abstains("There are 5 boxes. The exact number of pens in each box is not given.")
    assert abstains("Tom had 5 apples. It is not known how many he ate.")
    assert not abstains("The fire began in a bakery. The exact time is not known.")


def test_an_inability_counts_whoever_it_is_put_on_and_a_persons_own_does_not() -> None:
    assert abstains("The gardener cannot provide the number.")
    assert not abstains("He could not answer the teacher, so he left.")
    assert abstains("They cannot be counted.")


def test_a_worked_solution_with_doubts_on_the_way_is_an_answer() -> None:
    thinking = (
        "Okay, let me think. I don't know the total yet. The number of girls is not given directly.\n"
        "Hmm, we cannot find it at once. But 30 - 12 = 18.\nSo there are 18 girls."
    )
    assert not abstains(thinking)


def test_an_admission_that_is_the_stated_answer_counts() -> None:
    assert abstains("The answer is that it cannot be determined.")


def test_the_signs_say_what_the_verdict_rests_on() -> None:
    late = signs("The heart has four chambers. I don't know why.")
    assert (late.about_speaker, late.about_speaker_later, late.first_admission) == (0, 1, 1.0)
    assert signs("The answer is Paris. I don't know why.").stated_answer
    hedged = signs("I'm not sure, but I think it's Paris.")
    assert (hedged.about_speaker > 0, hedged.conclusion, hedged.abstains) == (True, True, False)
    assert signs("Which bridge do you mean?").abstains
    assert signs("«No lo sé», contestó.").false_friends == 1
    numbers = signs("I don't know.").asdict()
    assert numbers["abstains"] == 1.0
    assert all(isinstance(value, float) for value in numbers.values())


@pytest.mark.parametrize("text", ["No lo sé.", "NO LO SE", "no lo se", "**No lo sé**", "Respuesta: no lo sé"])
def test_accents_case_and_wrappers_change_nothing(text: str) -> None:
    assert abstains(text)


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert abstains(text) in (True, False)


@pytest.mark.parametrize(
    "loop",
    [
        "the question ",
        "some people ",
        "the exact ",
        "answer to ",
        "you ",
        "1\n",
        "a",
        "no se ",
        "ich kann ",
        "je ne ",
        "не ",
        "我不",
        "لا ",
        "できません",
        "नहीं ",
        "모르",
        "non ",
        "não ",
        "(",
        '"',
        "'a ",
        "«",
        "{",
    ],
)
def test_a_long_loop_does_not_hang_the_judge(loop: str) -> None:
    assert abstains("I don't know. " + loop * 3000)
