"""Language names: what containers write (ISO 639-2) to what playlists want (BCP 47)."""

_TWO_LETTERS = {
    "ara": "ar",
    "bul": "bg",
    "ces": "cs",
    "chi": "zh",
    "cze": "cs",
    "dan": "da",
    "deu": "de",
    "dut": "nl",
    "ell": "el",
    "eng": "en",
    "fin": "fi",
    "fra": "fr",
    "fre": "fr",
    "ger": "de",
    "gre": "el",
    "heb": "he",
    "hin": "hi",
    "hrv": "hr",
    "hun": "hu",
    "ind": "id",
    "ita": "it",
    "jpn": "ja",
    "kor": "ko",
    "nld": "nl",
    "nor": "no",
    "pol": "pl",
    "por": "pt",
    "ron": "ro",
    "rum": "ro",
    "rus": "ru",
    "slk": "sk",
    "slo": "sk",
    "spa": "es",
    "srp": "sr",
    "swe": "sv",
    "tha": "th",
    "tur": "tr",
    "ukr": "uk",
    "vie": "vi",
    "zho": "zh",
}

# Of two names for a language the terminological one comes out: deu, not ger.
_BIBLIOGRAPHIC = frozenset({"chi", "cze", "dut", "fre", "ger", "gre", "rum", "slo"})
_THREE_LETTERS = {two: three for three, two in _TWO_LETTERS.items() if three not in _BIBLIOGRAPHIC}


def bcp47(name: str) -> str:
    """Return the tag for a container's language, ``und`` where it says nothing usable."""
    tag = name.strip()
    if not 2 <= len(tag) <= 35 or not tag.replace("-", "").isascii():
        return "und"
    if not tag.replace("-", "").isalnum():
        return "und"
    return _TWO_LETTERS.get(tag.lower(), tag)


def iso639_2(tag: str) -> str:
    """Return the three letters that MP4 and MPEG-TS want for a tag, ``und`` for unknown ones."""
    primary = tag.split("-")[0].lower()
    if len(primary) == 3:
        return primary
    return _THREE_LETTERS.get(primary, "und")
