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


def bcp47(name: str) -> str:
    """Return the tag for a container's language, ``und`` where it says nothing usable."""
    tag = name.strip()
    if not 2 <= len(tag) <= 35 or not tag.replace("-", "").isascii():
        return "und"
    if not tag.replace("-", "").isalnum():
        return "und"
    return _TWO_LETTERS.get(tag.lower(), tag)
