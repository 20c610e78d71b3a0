"""Does a completion abstain? Phrase rules on whole words, aware of where they stand.

A completion abstains when it admits not to answer and states no answer. In detail:

1. *Admissions about the question* ("cannot be determined", "the problem does not say", "it is subjective",
   "there is no such law") count wherever they stand: a chain of thought may well end with one.
2. *Admissions about the speaker* ("I don't know", "I'm not sure", "I have no information") or about what is
   on record ("the exact date is not available"), and corrections of what the question presumes ("he never
   won it") count only in the opening: up to the first sentence that is more than a preface, such as an
   apology or a remark on the question. A late hedge is not an abstention.
3. *A stated answer* ("the answer is Paris", `\\boxed{5}`, `#### 5`) outweighs any admission, before or after,
   unless the admission is what it states ("the answer is unknown").
4. *A conclusion* ("so she has 5", "= 5", "but I think it's Rome", a bare "Paris." at the start) outweighs
   admissions about the speaker, and those about the question that come before it.

What counts as abstaining follows AbstentionBench (Kirichenko et al. 2025, arXiv 2506.09038): not knowing,
asking for what is missing, calling it a matter of opinion, correcting a false premise, and declining
all count.

The rules read English, in lower case, with contractions written out ("don't" is "do not") and adverbs that
change nothing ("really", "currently") left out. Each line of a rule block is a regular expression between
word boundaries, in which `<name>` stands for a word of that list.
"""

from __future__ import annotations

import re

_Span = tuple[int, int]


def abstains(text: str) -> bool:
    """Whether the completion abstains from answering, by the rules above. An empty text does not."""
    plain = _FALSE_FRIENDS.sub("…", _written_out(text))
    about_question = _spans(_ABOUT_QUESTION, plain)
    opening = _opening_end(plain)
    about_speaker = [span for span in _spans(_ABOUT_SPEAKER, plain) if span[0] < opening]
    admissions = about_question + about_speaker
    if not admissions or _apart(_spans(_STATED_ANSWER, plain), admissions):
        return False
    conclusions = _apart(_spans(_CONCLUSION, plain), admissions)
    if not about_question:
        return not conclusions
    return not any(conclusion > max(about_question) for conclusion in conclusions)


def _written_out(text: str) -> str:
    """Lower case, straight quotes, single blanks, no contractions, no idle adverbs; line breaks are kept."""
    text = text.casefold().replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"\s*\n\s*", "\n", text.strip().strip('"')))
    for contraction, words in _CONTRACTIONS.items():
        text = re.sub(contraction, words, text)
    return _IDLE.sub("", text)


def _opening_end(plain: str) -> int:
    """Where the opening ends: with the first sentence that is no preface, or with the text."""
    for sentence in re.finditer(r"[^\n]+?(?:[.!?]+(?=\s|$)|(?=\n|$))", plain):
        if not _PREFACE.match(sentence[0].strip()):
            return sentence.end()
    return len(plain)


def _spans(rules: re.Pattern[str], plain: str) -> list[_Span]:
    return [match.span() for match in rules.finditer(plain)]


def _apart(spans: list[_Span], others: list[_Span]) -> list[_Span]:
    """The spans that overlap none of the others."""
    return [span for span in spans if not any(span[0] < end and start < span[1] for start, end in others)]


def _rules(block: str) -> re.Pattern[str]:
    """One pattern for a block of rules; blank lines and comments are skipped."""
    lines = [line.strip() for line in block.splitlines()]
    rules = "|".join(line for line in lines if line and not line.startswith("#"))
    return re.compile(rf"(?<!\w)(?:{re.sub('<([a-z_]+)>', lambda name: _LISTS[name[1]], rules)})(?!\w)")


_CONTRACTIONS = {
    r"\bcan't\b|\bcan not\b": "cannot",
    r"\bwon't\b": "will not",
    r"n't\b": " not",
    r"\b(it|that|there|what|who|he|she|here)'s\b": r"\1 is",
    r"'m\b": " am",
    r"'re\b": " are",
    r"'ve\b": " have",
    r"'ll\b": " will",
    r"'d\b": " would",
    r"\blet's\b": "let us",
}

_IDLE = re.compile(
    r"\b(?:really|actually|currently|yet|even|quite|just|still|ever|very|too|entirely|fully|completely|"
    r"definitively|definitely|accurately|precisely|exactly|certainly|truly|simply|explicitly|specifically|"
    r"clearly|directly|reliably|honestly|personally|publicly|absolutely|totally|generally|highly|easily|"
    r"possibly|necessarily|confidently|readily|at all) "
)

_LISTS = {
    name: f"(?:{'|'.join(words.split()).replace('_', ' ')})"
    for name, words in {
        "cannot": """cannot could_not unable_to not_able_to in_no_position_to
            not_in_a_position_to""",
        "find_out": r"""known? say said tell told determined? predict(?:ed)? answer(?:ed)? calculated?
            computed? work(?:ed)?_(?:\w+_){0,2}out figured?_(?:\w+_)?out confirm(?:ed)? verif(?:y|ied)
            identif(?:y|ied) infer(?:red)? deduced? estimated? measured? settled? ranked? counted found
            find_out solved""",
        "hand_over": """give provide offer name supply state find solve help assist recommend choose
            pick decide judge guess recall remember speculate comment see access look check put make
            share express vouch disclose reveal do_th(?:at|is|e)""",
        "means": """information data details? context knowledge facts access idea clue way means records?
            memory answer ability capability opinions? preferences? favou?rites? feelings beliefs
            experiences? emotions tastes?""",
        "question": """problem question text passage statement prompt context story sentence information
            data details premise puzzle request description scenario""",
        "machine": """ai artificial language_model large digital virtual computer machine""",
        "fact": """numbers? names? dates? times? years? prices? figures? amounts? values? count total age
            identity location address colou?r results? score""",
        "open": """unknown unclear uncertain undetermined unknowable unpredictable ambiguous
            a_mystery(?!_(?:novels?|stor(?:y|ies)|books?|films?|series|writers?|plays?|game|thriller))
            undecided unspecified unanswerable debatable up_for_debate""",
        "told": """known clear specified mentioned stated given provided defined disclosed indicated
            determined decided established enough sufficient available_to_me""",
        "tell": """specify mention state say tell give provide include indicate contain explain
            specified mentioned stated said told given provided included""",
        "judged": """one single right correct definitive definite clear objective universal simple easy
            straightforward wrong agreed best""",
        "many": """several many various different factors taste something
            a_(?:number|variety|lot|few|range)
            the_(?:person|individual|context|situation|specific|reader|viewer|criteria)""",
        "wrong": """false incorrect faulty flawed mistaken wrong invalid""",
        "deed": """win won write wrote invent(?:ed)? discover(?:ed)? land(?:ed)? died? became become
            served? paint(?:ed)? composed? direct(?:ed)? sign(?:ed)? say said visit(?:ed)? meet met
            marr(?:y|ied) play(?:ed)? buil[dt] created? host(?:ed)?""",
        "filler": """i no sorry unfortunately great good well hmm hello hi ok okay sure thanks? that
            what interesting""",
        "quoting": """phrase words? song titled? called sentence said says saying asked replied sings
            wrote""",
    }.items()
}
_LISTS["the_exact"] = r"the (?:exact|precise|specific) [^.!?,;\n]{1,60}?"
_LISTS["clause"] = r"(?:(?! but\b| though\b| although\b| however\b)[^.!?;\n])*"

# Things that look like admissions and are none.
_FALSE_FRIENDS = _rules(r"""
    # a remark on the side of an answer
    (?:al)?though (?:some|its|his|her|their|many|most|other|not all) [^.!?,;\n]*
    # talked about, not said: the phrase "I do not know"
    <quoting>[^.!?\n"']{0,20}"[^"\n]*"
    <quoting>[^.!?\n"']{0,20}'[^'\n]*'
    unknown to (?:many|most|some|few|others|people|the public|him|her|them)
    unknown (?:until|before|in (?:europe|the west)|to the ancients)
    unknown (?:soldier|warrior|variable|quantity|number|value|author|artist)s?
    not (?:unclear|unknown|unsure|uncertain|impossible|hard|difficult)
    not known (?:for|as|to(?! me| us| any| historians| scientists))|not clear[- ]cut
    (?:know|aware of) (?:of )?(?:anyone|anybody|any \w+) (?:who|that)
    do not know about you|who knows (?:how|that|the|what)
    (?:let me know|feel free|do not hesitate) (?:if|to)[^.!?\n]*|if you (?:need|want|have|would like)[^.!?\n]*
    if (?:i|we|you) (?:are |am )?(?:not sure|unsure|do not know|cannot)
""")

# What may stand before the first real sentence: a question back, courtesies, remarks on the question.
_PREFACE = _rules(r"""
    [^.!]*\?
    (?:i|we|my|sorry|unfortunately|thanks?|great|good|interesting|hello|hi|hmm|well|ok|okay|sure|oh)
    as an?|without
    (?:that is|this is|it is|what) an? (?:\w+ ){0,2}(?:question|one|problem|topic|challenge)
    (?:the|this|your) <question>
    to (?:answer|solve|find|determine)|let (?:us|me)
""")

# Rule 1: about the question; counted wherever it stands.
_ABOUT_QUESTION = _rules(r"""
    # it cannot be found out
    <cannot> (?:be )?<find_out>
    (?:i|we) (?:am |are )?<cannot> <hand_over>
    (?:impossible|not possible|hard|difficult|not enough|too little) (?:\w+ ){0,2}to (?:be )?<find_out>
    (?:impossible|not possible|hard|difficult) to (?:give|provide|name|state|specify|pin down) (?:an?|the|one|any)
    no (?:\w+ )?way (?:to|of|for \w+ to) (?:<find_out>|knowing|telling|determining|predicting)
    no telling|(?:nobody|no one|no-one) (?:can |could |has )?(?:\w+ )?(?:knows?|tell|say|predict|measured?|counted)
    (?:scientists|historians|experts|researchers) do not know
    # it is not known, not clear, not settled
    (?:is|are|was|were|be|remains?|stays?) <open>
    (?:is|are|was|were|has|have|be) not (?:been )?<told>
    (?:has|have) not (?:been )?(?:happened|occurred|taken place|held|announced|played|come)
    (?:has|have) yet to|would be (?:\w+ )?(?:speculation|guesswork)|remains to be seen
    (?:is|has|have) no (?:\w+ )?answer
    lost to history|(?<!more )(?<!further )information is not available
    ^(?:answer: )?(?:unknown|undetermined|unclear|indeterminate)
    # the question does not say; something is missing
    <question>[^.!?\n]{0,30}? (?:does|do|did|has|have) not <tell>
    you (?:have|did) not <tell>
    not (?:told|given) (?:how|what|which|who|when|where|the|any|enough)
    (?:no|not enough|insufficient|lack of|missing) (?:\w+ ){0,3}(?:information|data|details|context)
    (?:information|details|data|context) (?:is|are) (?:missing|incomplete|insufficient|needed)
    need (?:to have )?(?:some )?(?:more|further|additional) (?:\w+ )?(?:information|details|context|data)
    (?:does|do) not (?:give|have|provide|contain|include) enough
    nothing (?:in|about) the (?:\w+ )?<question>|you (?:need to|have to|must) (?:tell me|specify|provide)
    (?:number|price|amount|value|length|size|name|date) (?:of [\w ]{1,30} )?(?:is|are) missing
    <question> (?:is|seems|appears|sounds) (?:vague|incomplete|open-ended|confusing|broad|ambiguous|unclear)
    # it asks back
    (?:could|can|would|will) you (?:\w+ ){0,2}(?:clarify|specify|provide|tell me|share|elaborate|rephrase)
    (?:could|can) you (?:please )?give me
    (?:could|can) you (?:please )?be more specific
    please (?:\w+ )?(?:clarify|specify|provide|tell me|share|rephrase|give me (?:more|some|the))
    please let me know (?:what|which|who|where|how)
    (?:which|what|who)\b[^.!?\n]{0,40} (?:do|are|did|were) you (?:mean|referring|talking|asking|thinking)
    need to know (?:which|who)|you could mean
    # a matter of opinion
    (?:it|that|answer) (?:all )?depends
    depends on (?:you|your|who|whom|what|how|which|personal|individual|<many>)
    subjective|matters? of (?:personal |individual )?(?:taste|opinion|preference|perspective|choice|debate)
    no (?:<judged>(?:,| or| and)? ?){1,4}(?:answer|way to|choice|number|winner|figure|consensus|ranking)
    (?:varies|vary|differs?) from person to person
    (?:personal|individual) (?:preference|opinion|taste|choice)s?
    (?:choice|decision|it) is (?:up to you|yours)|only you can|everyone has (?:an?|their)
    # an artificial intelligence excuses itself
    (?:as|i am)(?: only)? an? <machine>[^.!?\n]{0,60} (?:not|cannot|unable|have no|lack)
    # what the question presumes is wrong
    no such \w+|(?:do|does|did) not exist|never existed
    never (?:happened|took place|occurred)|did not happen
    <wrong> (?:premise|assumption|presupposition)
    (?:premise|question|assumption) (?:\w+ ){0,4}?(?:assumes|presumes|presupposes|<wrong>)
    (?:does not|makes no) (?:\w+ )?(?:make )?sense|nonsensical|trick question
    no (?:\w+ )?records? (?:of|that)|there (?:was|has) never
""")

# Rule 2: about the speaker, about what is on record, or against the premise; counted in the opening alone.
_ABOUT_SPEAKER = _rules(r"""
    # not knowing
    (?:i|we) (?:do|did) not (?:know|remember|recall)
    ^(?:sorry,? )?(?:do not know|dunno|no idea|no clue)|i wish i knew|i do not understand|beats me
    who knows|your guess is as good as mine
    (?:(?:i|we) (?:am|are)|^) ?(?:not (?:sure|certain|aware|familiar|confident|clear|qualified))
    (?:i|we) (?:am|are) (?:unsure|uncertain|unaware|unfamiliar)
    not (?:clear|known|something (?:that )?i (?:know|can))
    (?:i|we) (?:do not have|do not possess|lack|have no) (?:[\w-]+ ){0,5}?<means>
    i have no \w+ to (?:offer|give|report)|no (?:\w+ ){0,4}(?:is|are) available to me
    i know (?:too little|nothing)|i have never heard|i cannot be (?:sure|certain)|escapes me
    (?:not|no|cannot) (?:\w+ )?(?:vouch|recall|remember)
    (?:i|we) (?:do not have|do not possess|lack|have no) (?:the|any|an?|that|this) (?:[\w-]+ ){0,2}?<fact>
    (?:i|we) (?:may|might|will|can) never know|not privy to
    # not to be had, not on record, not exact
    (?:is|are) (?:not available|unavailable)(?= to| at| for| on| here| as| because| due|,|;|\W*(?:[.!\n]|$))
    ^not (?:available|specified|given|provided|stated|mentioned|applicable)
    ^(?:unspecified|unavailable|uncertain|n/a)
    (?:is|are|was|were|has|have) not (?:been )?(?:recorded|documented|revealed|preserved)(?! (?:until|before|by))
    <the_exact> (?:is|are|was|were|has|have) not(?! \d)
    <the_exact> (?:is|are|was|were) (?:difficult|hard|impossible) to
    no (?:exact|specific|precise|known) <fact>|there is no (?:\w+ )?evidence (?:of|that|for)
    # beyond reach
    (?:beyond|out of|outside|past) (?:my|what i) (?:\w+ )?(?:reach|knowledge|ability|scope|can|know)
    my (?:knowledge|training|grasp) (?:data )?(?:of [\w ]+? )?(?:stops|ends|only|is (?:\w+ )?(?:limited|weak))
    # declining
    (?:i|we) (?:\w+ ){1,3}(?:leave|decline|refrain|pass on|rather not|sooner|(?:give|name|offer) no(?:ne)?)
    (?:i|we) (?:\w+ ){1,4}not (?:to )?(?:guess|speculate|answer|name|put|give|choose|say|offer)
    # the premise is wrong
    (?:did not|never) <deed>(?![^.!?\n]* until)|(?:has|have|had) never (?:been|had|won|\w+ed)
    (?:is|was|are|were) (?:only )?(?:an? )?(?:common )?(?:myth|legend|misconception|fiction)(?!,? but)
    (?:is|was|are|were) (?:fictional|mythical|imaginary|made up)
    (?:is|was|are|were) not (?:a )?real
""")

# Rule 3: an answer stated as one.
_STATED_ANSWER = _rules(r"""
    answer(?: to [^.!?\n]{1,60}?)?(?: is|:| would be| should be| must be)(?=[ :]*[\w$'"\\-])<clause>
    \\boxed\{.*
    \#{4} ?-?\$?\d+
""")

# Rule 4: a conclusion reached, or an answer given at once.
_CONCLUSION = _rules(r"""
    (?:so|therefore|thus|hence|in total|altogether|this means|that means)\b(?=[^.!?\n]*\d)<clause>
    \w* ?= ?\$?-?\d[\d,.]*
    (?:but|however),? (?:i (?:think|believe|guess)|i would (?:say|guess)|my (?:best )?guess is)\b<clause>
    (?:but|however),? (?:(?:it|he|she) (?:is|was)|probably|most likely)\b(?! (?:best|important))<clause>
    i (?:think|believe|guess) (?:that )?(?:it|the|he|she|they)\b<clause>
    ^yes|^(?!<filler>\b)[\w$%,'-]+(?: [\w$%,'-]+){0,2}[.!](?=\s)
""")
