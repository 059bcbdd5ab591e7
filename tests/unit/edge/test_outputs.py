import pytest

from common.errors import ConfigError
from edge.output import NoSettings, configured
from edge.outputs.websocket import CODECS, codec_data
from tests.unit.edge.live import AUDIO, VIDEO


def test_every_file_of_the_folder_is_an_output() -> None:
    assert {"cmaf", "flv", "info", "mp4", "player", "websocket"} <= configured({}).keys()


def test_settings_are_checked_against_the_output_they_are_for() -> None:
    cls, settings = configured({"flv": {}})["flv"]
    assert cls.capability.url == "/{stream}.flv"
    assert isinstance(settings, NoSettings)
    with pytest.raises(ConfigError, match="mp4"):
        configured({"mp5": {}})
    with pytest.raises(ConfigError, match=r"edge\.outputs\.flv"):
        configured({"flv": {"speed": 1}})


def test_codec_data_names_codecs_as_media_source_extensions_want_them() -> None:
    told = codec_data([VIDEO, AUDIO], {1: 0, 2: 0})
    assert told == {
        "type": "codec_data",
        "codecs": ["avc1.42C00D", "mp4a.40.2"],
        "tracks": [1, 2],
    }
    assert {VIDEO.codec, AUDIO.codec} <= CODECS
