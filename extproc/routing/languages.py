"""Detects texts in a language that the encoder does not read, before they are embedded.

An encoder gives every text a vector, also one in a language that it was not trained on, and such a vector
may be close to an example by chance. A script other than Latin identifies a language, or a group of them. A
text in Latin script is compared with English by its function words, its letters and its endings. A text
with little evidence counts as English: names, code, and one or two words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

ANY: Final = "any"
ENGLISH: Final = "en"

_READ: Final = 1000  # characters, of the beginning and of the end together
_CODE: Final = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|[!-~]+@[!-~]+|[!-~]*[_\\/{}<>=][!-~]*", re.DOTALL
)
# A letter beside a digit is part of a name, such as `v2`.
_WORD: Final = re.compile(r"(?<![^\W_])[^\W\d_]+(?![^\W_])")
_MARKS: Final = re.compile(r"[¿¡]")
_OTHER_LETTERS: Final = re.compile(r"[^\W\d_A-Za-zªº\u00b5-\u024f\u1e00-\u1eff]")

# A letter of these scripts is a syllable or a word, so it counts as three letters of other scripts.
_SYLLABLES: Final = frozenset({"han", "kana", "hangul"})
_SCRIPTS: Final[Mapping[str, re.Pattern[str]]] = {
    "kana": re.compile(r"[\u3040-\u30ff]"),
    "hangul": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "han": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
    "cyrillic": re.compile(r"[\u0400-\u052f]"),
    "arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f]"),
    "hebrew": re.compile(r"[\u0590-\u05ff]"),
    "greek": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "devanagari": re.compile(r"[\u0900-\u097f]"),
    "thai": re.compile(r"[\u0e00-\u0e7f]"),
}
_OTHER_SCRIPT: Final = "other"
_LEAST_LETTERS: Final = 2  # of another script
# With this many Latin words, the other script must have this many times their letters: people ask in English
# about a text that they quote.
_LATIN_WORDS: Final = 3
_QUOTED: Final = 3

_LEAST: Final = 1.5  # evidence against English; a function word has 1
_ALONE: Final = 0.5  # the share of words that are function words, where less evidence is enough
_SHORT: Final = 3  # words of a text with less evidence
_LEAST_SHARE: Final = 0.12  # evidence per word: prose has .3 to .8
_VOWEL_WORDS: Final = 4  # words of a text whose last letters are evidence
_VOWEL_SHARE: Final = 0.7  # of them end in a vowel
_FULL_SHARE: Final = 0.4  # of them end in another vowel than e, which is silent in English
_WEAK: Final = 0.5  # the evidence of a word or letter that English texts have too, mostly in names


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENGLISH: Final = _words(
    "the a an and or but if then than that this these those it its is are was were be been being "
    "am do does did done have has had having will would can could should shall may might must not "
    "no yes of to in on at by for with from about into over after before between under again out "
    "up down off here there when where why how what which who whom whose i me my mine we us our "
    "you your he him his she her they them their all any both each few more most other some such "
    "only own same so too very just now as until while because during against please thanks thank "
    "hello hi hey let tell show give get make take need want know find play set add book put turn "
    "help call send ask look go going come see use using say said write read open close pay buy "
    "like new old good best long much many one two first last next today tomorrow tonight time "
    "day week month year name list song music movie weather account card money bank transfer "
    "order change it's i'm i'd i've don't can't what's how's where's that's whats im dont cant "
    "isn't doesn't didn't won't ve ll re s t m d "
)

# Function words and everyday words, written by hand. Those of `_ENGLISH` are no evidence.
_WORDS: Final[Mapping[str, str]] = {
    "de": "der das und ist nicht ich du er wir ihr sie mir mich dir dich uns euch mein meine meinen "
    "meinem meiner dein deine ein eine einen einem einer kein keine keinen den dem des zu zum zur "
    "mit von vom für auf aus bei nach über unter vor durch gegen ohne um sich wie wer wo wann "
    "warum wieso welche welcher welches wieviel viel viele habe hast haben hatte sind bin bist "
    "wird werden wurde kann kannst können könnte muss soll darf möchte gibt geht macht mach bitte "
    "danke heute morgen gestern jetzt noch auch schon nur sehr wenn dass weil oder aber als im "
    "ins am beim es mal etwas alle alles zeig zeige sag schreib erkläre übersetze",
    "fr": "le la les un une et est sont je tu il elle nous vous ils elles mon ma mes ton ta tes sa ses "
    "ce cette ces que qui quoi où quand comment pourquoi combien quel quelle quels quelles dans "
    "avec sans sous sur vers chez des du de au aux ne pas plus moi toi lui leur leurs suis es "
    "sommes êtes ai avons avez ont était être avoir peux peut pouvez dois doit faut fait faire "
    "fais veux veut voudrais y ça cela si aussi très bien encore merci bonjour s'il aujourd hui "
    "demain hier maintenant mais ou donc parce qu est-ce en par pour mets dis explique écris "
    "traduis",
    "es": "el la los las un una unos unas y es son soy eres está están estoy yo tú él ella nosotros "
    "ellos mi mis tu tus su sus me te se nos le lo les que qué quién cómo como cuándo cuando "
    "dónde donde cuánto cuánta cuántos cuántas cuál por para con sin sobre entre desde hasta de "
    "del al en no muy más pero porque si sí también ya hay tengo tiene tienes tener hace hacer "
    "puedo puedes puede poder quiero quiere necesito debo ser estar va voy este esta esto ese esa "
    "eso todo todos hoy mañana ayer ahora gracias hola favor pon dime haz escribe explica traduce",
    "it": "il lo la gli le un uno una e è sono sei siamo io lui lei noi voi loro mio mia miei mie tuo "
    "tua suo sua mi ti ci vi si che chi cosa come quando dove perché quanto quanta quanti quante "
    "quale quali qual per con senza su tra fra di del dello della dei degli delle da dal dalla "
    "dai nel nella nei al alla ai alle sul sulla non più ma anche già ancora molto questo questa "
    "questi ho hai ha abbiamo hanno avere essere posso puoi può devo deve voglio vorrei fare fa "
    "oggi domani ieri adesso ora grazie ciao favore po dimmi metti scrivi spiega",
    "pt": "o os uma um e é são sou está estão estou eu tu ele ela nós eles elas meu minha meus minhas "
    "teu tua seu sua me te se lhe que quem como quando onde porquê porque quanto quanta quantos "
    "quantas qual quais por para com sem sobre entre desde até de do da dos das no na nos nas ao "
    "aos à às em num numa não mais muito mas também já ainda há tenho tem ter faz fazer posso "
    "podes pode poder quero quer preciso devo ser estar vai vou este esta isto esse essa isso "
    "tudo hoje amanhã ontem agora obrigado obrigada olá você diz escreve explica",
    "nl": "de het een en is zijn ben bent ik jij je hij zij ze wij we jullie mij mijn jouw uw haar ons "
    "onze dat die dit deze wat wie waar wanneer waarom hoe hoeveel welke in op te van voor met "
    "naar aan uit bij over door tegen zonder om er niet geen ook nog al heel maar of als dan want "
    "heb hebt heeft hebben had kan kun kunt kunnen moet mag wil zou wordt worden doe doet gaat "
    "maak geef vandaag morgen gisteren nu alsjeblieft bedankt graag veel meer iets alle alles zeg "
    "schrijf",
    "sv": "och det att en ett är som på för av med den de inte jag du han hon vi ni mig dig min mitt "
    "mina din ditt har hade kan ska skulle vill var vad vem hur när varför vilken från till om "
    "eller men så också mycket finns idag imorgon nu tack hej",
    "da": "og det at en et er som på for af med den de ikke jeg du han hun vi mig dig min mit mine din "
    "har havde kan skal skulle vil hvad hvem hvor hvordan hvornår hvorfor hvilken fra til om "
    "eller men så også meget findes i dag morgen nu tak hej ikkje hva meg deg mye hvilke",
    "fi": "ja on ei se että minä sinä hän me te he mikä mitä kuka missä milloin miksi miten kuinka "
    "paljon onko voinko voiko voitko olen olet ovat oli minun sinun minulle tämä nyt tänään "
    "huomenna eilen kiitos kun jos mutta tai myös vielä kanssa",
    "pl": "i w nie na się jest są z ze że do to jak co o dla po przez od ja ty on ona my mnie mi mój "
    "moja moje moim mojego mojej twój jego jej ich czy kto gdzie kiedy dlaczego ile jaki jaka "
    "jakie który która które ten ta te tego tym tylko też już jeszcze bardzo ale lub albo mam "
    "masz ma mogę możesz może chcę muszę był być dziś jutro wczoraj teraz proszę dziękuję",
    "cs": "a je v na se že s z do to jak co pro po od já ty on ona my mě mi můj moje moji kdo kde kdy "
    "proč kolik jaký jaká jaké který která jsem jsi jsou byl být mám máš má mohu můžu můžeš může "
    "chci musím ale nebo také už ještě velmi dnes zítra včera teď prosím děkuji není",
    "tr": "ve bir bu şu için ile da de ne çok olarak nasıl neden niçin daha gibi var yok mı mi mu mü "
    "ben sen biz siz benim bana beni senin kadar kaç kim nerede zaman hangi değil ama veya şimdi "
    "bugün yarın dün lütfen teşekkür olan olur eder misin mısın musun et yap ver göster istiyorum "
    "gerekiyor",
    "ro": "și este sunt nu un o cu pe la în din pentru că ce cine unde când cum cât câte care eu tu el "
    "ea noi meu mea mele mi îmi am ai are avem pot poți poate vreau trebuie mai foarte dar sau "
    "azi mâine acum mulțumesc să",
    "hu": "az egy és hogy nem van vagyok én te ő mi ti nekem mit ki hol mikor miért hogyan mennyi hány "
    "melyik ez azt ezt meg de vagy csak is már még nagyon ma holnap tegnap most kérem köszönöm "
    "lehet kell tudok tudsz",
    "id": "yang dan di ke dari ini itu untuk dengan tidak ada adalah saya aku kamu anda kami kita "
    "mereka apa siapa mana kapan mengapa kenapa bagaimana berapa akan bisa dapat sudah belum juga "
    "atau tapi hari besok sekarang tolong terima kasih buatkan",
    "vi": "và là của có không tôi bạn anh chị em cho với trong được này đó những các một như thế nào "
    "khi bao nhiêu gì ai ở đâu tại sao làm muốn cần hôm nay mai cảm ơn hãy",
}
# Parts of names of places, people and works, which English texts have: weak evidence.
_NAMES: Final = _words(
    "el la las los le les de del della di da du des van von der den dos das san o e y a i en al "
    "ai un una uno mi tu te ti si se su me ma no na on je ja mu to do ha han hun ne vi hej ciao "
    "hola mon ami und et il que "
)
# Words, names or abbreviations of English texts too: weak evidence.
_SHARED: Final = _words(
    "lo non dir con def co yo ty hoy nay sous chez sera quasi tan cos sup temp nos hem "
    "die son sons main pour sale or once as hat war man also will rot gut arm arms fast kind wild "
    "art gift still over under wet mag wel men met god bent had then even age made sans tell pan "
    "ten comment cent plus moi six elle dans mai dieses sole come fare ore dove due sei pure solo "
    "male mane sue ver eden sin uno he we ze is in on per via mine are sent am ai pm min max mi "
    "pot care mare ce est ad ex den din hun tag van par sur car tu es ha ta oh ok mas em um au at "
    "it os log ti ni ne var med fra et al far her ham kan ma te pa me ho hay va des san she a o i "
    "e u y pro sit vis set fin rat date base hang team ki meg most kell el la se mit dan hari ada "
    "kita can anda apa nu ny no so my by to do de ski pl "
)
_STRONG_LETTERS: Final = re.compile(r"[ąćęłńśźżğışőűřěůťďčšžåøæœßãõățșđơư\u1ea0-\u1ef9]", re.IGNORECASE)
_WEAK_LETTERS: Final = re.compile(r"[áàâéèêëíìîïóòôúùûñçäöüý]", re.IGNORECASE)
# Endings and clusters that are common in these languages and rare in English.
_SHAPES: Final = re.compile(
    r"(?:[a-z]{3}(?:ungen|keit|heit|lich|liche|lichen|schaft|zione|zioni|aggio|mente|ción|ciones|dades|eux|euse|"
    r"ement|ijk|lijk|lijke|ingen|heid|owa[ćnł]\w*|iej|owych|lar[ıi]\w*|ler[i]\w*|yorum|siniz|miş|ssa|ssä|lla|llä))\Z"
    r"|(?:sch[lmnrwt]|cz[a-z]|szcz|przy|rzy|ij[kn]|aai|eeu|ghi[ae]|lh[aeo]|nh[aeo]|eau)",
    re.IGNORECASE,
)


def unread(text: str, read: frozenset[str]) -> str:
    """The language or script of ``text`` if it is surely none of ``read``. Empty: believe its vector.

    ``read`` has names of ``KNOWN``. Takes 10 to 60 microseconds.
    """
    if ANY in read or (text.isascii() and _plainly_english(text)):
        return ""
    prose = _CODE.sub(" ", _shortened(text))
    found = _other_script(prose) or _other_than_english(prose, read)
    return "" if found in read else found


def _shortened(text: str) -> str:
    return text if len(text) <= _READ else f"{text[: _READ // 2]}\n{text[-_READ // 2 :]}"


def _plainly_english(text: str) -> bool:
    """Whether a short look shows English: half of the first words are English function words."""
    words = text[:80].lower().split()[:8]
    return 2 * sum(word in _ENGLISH for word in words) > len(words)


def _other_script(prose: str) -> str:
    """The script other than Latin that most of the letters have. Empty: none."""
    if prose.isascii():
        return ""
    letters = [letter for letter in _OTHER_LETTERS.findall(prose) if letter.isalpha()]
    if len(letters) < _LEAST_LETTERS:
        return ""
    other = "".join(letters)
    counts = {name: len(pattern.findall(other)) for name, pattern in _SCRIPTS.items()}
    weight = len(other) + 2 * sum(counts[name] for name in _SYLLABLES)
    latin = [word for word in _WORD.findall(_OTHER_LETTERS.sub(" ", prose)) if len(word) > 1]
    least = sum(map(len, latin)) * (_QUOTED if len(latin) >= _LATIN_WORDS else 1)
    if weight <= least:
        return ""
    if counts["kana"]:  # Japanese writes many words in Han
        return "kana"
    name = max(counts, key=lambda script: counts[script])
    return name if counts[name] else _OTHER_SCRIPT


def _other_than_english(prose: str, read: frozenset[str]) -> str:
    """The likeliest language of Latin script, if the words are evidence against English and ``read``."""
    words = _WORD.findall(prose.lower())
    if not words:
        return ""
    english = sum(word in _ENGLISH for word in words)
    found: dict[str, float] = dict.fromkeys(_WORDS, 0.0)
    for word in words:
        for language, weight in _LANGUAGES_OF.get(word, ()):
            found[language] += weight
    name = max(found, key=lambda language: found[language])
    if read & found.keys():  # letters do not tell languages apart
        evidence = found[name]
    else:
        evidence = found[name] + sum(map(_by_letters, words)) + len(_MARKS.findall(prose)) + _by_vowels(words)
    known = english + max((found[language] for language in read & found.keys()), default=0.0)
    if evidence <= known or evidence < _LEAST_SHARE * len(words):
        return ""
    strong = sum(word in _STRONG for word in words)
    is_short = len(words) <= _SHORT and not english and strong >= _ALONE * len(words)
    return name if evidence >= _LEAST or is_short else ""


def _by_letters(word: str) -> float:
    """The evidence of the letters of a word, which do not tell the languages apart."""
    if not word.isascii():
        return 1.0 if _STRONG_LETTERS.search(word) else _WEAK if _WEAK_LETTERS.search(word) else 0.0
    return _WEAK if word not in _ENGLISH and _SHAPES.search(word) else 0.0


def _by_vowels(words: Sequence[str]) -> float:
    """The evidence of words that nearly all end in a vowel, as in Italian or Spanish."""
    full = sum(word[-1] in "aiouàèìòùáéíóú" for word in words)
    vowels = full + sum(word[-1] == "e" for word in words)
    has_many = vowels >= _VOWEL_SHARE * len(words) and full >= _FULL_SHARE * len(words)
    return 1.0 if len(words) >= _VOWEL_WORDS and has_many else 0.0


def _claims() -> Iterator[tuple[str, str, float]]:
    """Each word with its language and its evidence."""
    for language, text in _WORDS.items():
        for word in dict.fromkeys(text.split()):
            if word not in _ENGLISH and len(word) > 1:  # one letter may be a symbol or a part of code
                yield word, language, _WEAK if word in _NAMES or word in _SHARED else 1.0


def _by_word() -> Mapping[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for word, language, weight in _claims():
        found.setdefault(word, []).append((language, weight))
    return found


_LANGUAGES_OF: Final = _by_word()
_STRONG: Final = frozenset(word for word, _, weight in _claims() if weight == 1.0)
KNOWN: Final = frozenset(chain((ANY, ENGLISH, _OTHER_SCRIPT), _SCRIPTS, _WORDS))
