"""Setup records of real encoders, and small writers for what no encoder at hand sends.

The first ones were taken from the test files of npm's ``@videojs/vhs-utils`` (MIT), which are
named by their RFC 6381 codec string.
"""

AVCC_BASELINE = bytes.fromhex(
    "0142c00dffe100166742c00dd901a1fa100000030320000095e0f142a48001000568cb83cb20"
)
AVCC_MAIN = bytes.fromhex(
    "014d401effe10016674d401eeca0d0fd08000003019000004af078b16cb001000568ebe3cb20"
)
AVCC_HIGH = bytes.fromhex(
    "01640028ffe1001767640028acd941a1fa100000030320000095e0f183196001000668ebe3cb22c0"
)
HVCC_MAIN = bytes.fromhex(
    "0101600000009000000000003cf000fcfdf8f800000f03a00001001840010c01ffff01600000030090000003000003"
    "003c959809a10001002842010101600000030090000003000003003ca00d080f165959a4932b9a02000003006400"
    "00095e10a2000100074401c172b46240"
)
HVCC_MAIN_HIGH_TIER = bytes.fromhex(
    "01216000000090000000000078f000fcfdf8f800000f03a00001001840010c01ffff21600000030090000003000003"
    "0078959809a100010028420101216000000300900000030000030078a00d080f165959a4932b9a02000003006400"
    "00095e10a2000100074401c172b46240"
)
HVCC_REXT = bytes.fromhex(
    "0124080000009c080000000078f000fcfffafa00000f03a00001001740010c01ffff2408000003009c080000030000"
    "78959809a1000100284201012408000003009c080000030000789001a101e26cb2b3492657340400000300c80000"
    "12bc20a2000100084401c172860c4624"
)
AV1C = bytes.fromhex("81000c000a0b000000043e7fbcfbf90040")
AV1C_BARE = bytes.fromhex("81000c00")
VPCC = bytes.fromhex("010000000014820202020000")
OPUS_HEAD = bytes.fromhex("4f707573486561640102380180bb0000000000")
ASC_LC = bytes.fromhex("119056e500")


class BitWriter:
    """Write header fields as the specifications write them down."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, count: int, value: int) -> "BitWriter":
        """Append ``value`` in ``count`` bits."""
        self.text += f"{value:0{count}b}" if count else ""
        return self

    def ue(self, *values: int) -> "BitWriter":
        """Append unsigned Exp-Golomb codes."""
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def packed(self) -> bytes:
        """Return what was written, padded with zero bits."""
        text = self.text + "0" * (-len(self.text) % 8)
        return int(text or "0", 2).to_bytes(len(text) // 8, "big")

    def rbsp(self) -> bytes:
        """Return what was written with its stop bit and emulation prevention."""
        self.text += "1"
        out = bytearray()
        zeros = 0
        for byte in self.packed():
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            zeros = zeros + 1 if byte == 0 else 0
            out.append(byte)
        return bytes(out)
