"""Numbers of the MIKEY name spaces, spelled as the RFCs spell them.

Sources: RFC 3830 section 6 and 10, RFC 4563 section 4, RFC 6043 sections 6 and 14, and for SRTP policies
RFC 3830 section 6.10.1 with RFC 6904 and RFC 7714's additions left out, since RFC 6043 predates them.
"""

from enum import IntEnum


class DataType(IntEnum):
    """HDR Data Type (RFC 3830 6.1, RFC 6043 table 6.1)."""

    PSK_INIT = 0
    PSK_RESP = 1
    PK_INIT = 2
    PK_RESP = 3
    DH_INIT = 4
    DH_RESP = 5
    ERROR = 6
    REQUEST_INIT_PSK = 11
    REQUEST_INIT_PK = 12
    REQUEST_RESP = 13
    TRANSFER_INIT = 14
    TRANSFER_RESP = 15
    RESOLVE_INIT_PSK = 16
    RESOLVE_INIT_PK = 17
    RESOLVE_RESP = 18


class PayloadType(IntEnum):
    """Next Payload (RFC 3830 table 6.1.b, RFC 4563, RFC 6043 table 6.2)."""

    LAST = 0
    KEMAC = 1
    PKE = 2
    DH = 3
    SIGN = 4
    T = 5
    ID = 6
    CERT = 7
    CHASH = 8
    V = 9
    SP = 10
    RAND = 11
    ERR = 12
    TR = 13
    IDR = 14
    RANDR = 15
    TP = 16
    TICKET = 17
    KEY_DATA = 20
    GENERAL_EXTENSION = 21


class PrfFunc(IntEnum):
    """PRF func (RFC 3830 table 6.1.c, RFC 6043 table 6.3)."""

    MIKEY_1 = 0
    PRF_HMAC_SHA_256 = 1


class MapType(IntEnum):
    """CS ID map type (RFC 3830 table 6.1.d, RFC 4563, RFC 6043 table 6.4)."""

    SRTP_ID = 0
    EMPTY = 1
    GENERIC_ID = 2


class EncrAlg(IntEnum):
    """KEMAC Encr alg (RFC 3830 table 6.2.a, RFC 6043 table 6.5)."""

    NULL = 0
    AES_CM_128 = 1
    AES_KW_128 = 2
    AES_CM_256 = 3


class MacAlg(IntEnum):
    """KEMAC MAC alg and V Auth alg (RFC 3830 tables 6.2.b and 6.9, RFC 6043 table 6.6)."""

    NULL = 0
    HMAC_SHA_1_160 = 1
    HMAC_SHA_256_256 = 2


class KeyType(IntEnum):
    """Key Data Type (RFC 3830 table 6.13.a, RFC 6043 table 6.7)."""

    TGK = 0
    TGK_SALT = 1
    TEK = 2
    TEK_SALT = 3
    GTGK = 4
    GTGK_SALT = 5
    MPK = 6


class KvType(IntEnum):
    """Key validity type (RFC 3830 table 6.13.b)."""

    NULL = 0
    SPI = 1
    INTERVAL = 2


class TsType(IntEnum):
    """TS Type (RFC 3830 table 6.6, RFC 6043 table 6.8)."""

    NTP_UTC = 0
    NTP = 1
    COUNTER = 2
    NTP_UTC_32 = 3


class TsRole(IntEnum):
    """TS Role of a TR payload (RFC 6043 table 6.9)."""

    ISSUE = 1
    START = 2
    END = 3
    REKEYING = 4


class IdType(IntEnum):
    """ID Type (RFC 3830 table 6.7.a, RFC 6043 table 6.10)."""

    NAI = 0
    URI = 1
    BYTE_STRING = 2


class IdRole(IntEnum):
    """ID Role of an IDR payload (RFC 6043 table 6.11)."""

    INITIATOR = 1
    RESPONDER = 2
    KMS = 3
    PSK = 4
    APPLICATION = 5


class RandRole(IntEnum):
    """RAND Role of a RANDR payload (RFC 6043 table 6.13)."""

    INITIATOR = 1
    RESPONDER = 2
    KMS = 3


class CertType(IntEnum):
    """Cert Type (RFC 3830 table 6.7.b)."""

    X509V3 = 0
    X509V3_URL = 1
    X509V3_SIGN = 2
    X509V3_ENCR = 3


class HashFunc(IntEnum):
    """CHASH Hash func (RFC 3830 table 6.8, RFC 6043 table 6.12)."""

    SHA_1 = 0
    MD5 = 1
    SHA_256 = 2


class SignType(IntEnum):
    """SIGN S type (RFC 3830 table 6.5)."""

    RSA_PKCS1_V1_5 = 0
    RSA_PSS = 1


class ErrorNo(IntEnum):
    """ERR Error no (RFC 3830 section 6.12, RFC 6043 table 6.14)."""

    AUTH_FAILURE = 0
    INVALID_TS = 1
    INVALID_PRF = 2
    INVALID_MAC = 3
    INVALID_EA = 4
    INVALID_HA = 5
    INVALID_DH = 6
    INVALID_ID = 7
    INVALID_CERT = 8
    INVALID_SP = 9
    INVALID_SPPAR = 10
    INVALID_DT = 11
    UNSPECIFIED = 12
    INVALID_TICKET = 14
    INVALID_TPPAR = 15


class ExtensionType(IntEnum):
    """General Extension Type (RFC 3830 table 6.15, RFC 4563 section 4)."""

    VENDOR_ID = 0
    SDP_IDS = 1
    KEY_ID = 3


class TicketType(IntEnum):
    """Ticket Type (RFC 6043 table 6.15; 61440-65534 is for private use)."""

    MIKEY_BASE = 1
    TGPP_BASE = 2
    DERIVED = 61440


class ProtType(IntEnum):
    """Prot type of an SP payload and a GENERIC-ID crypto session (RFC 3830 table 6.10)."""

    SRTP = 0


class SrtpParam(IntEnum):
    """SRTP policy parameters (RFC 3830 section 6.10.1)."""

    ENCR_ALG = 0
    ENCR_KEY_LEN = 1
    AUTH_ALG = 2
    AUTH_KEY_LEN = 3
    SALT_KEY_LEN = 4
    PRF = 5
    KEY_DERIVATION_RATE = 6
    ENCRYPTION = 7
    RTCP_ENCRYPTION = 8
    FEC_ORDER = 9
    AUTHENTICATION = 10
    AUTH_TAG_LEN = 11
    PREFIX_LEN = 12
