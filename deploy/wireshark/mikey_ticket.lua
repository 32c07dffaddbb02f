-- A Wireshark dissector for MIKEY-TICKET (RFC 6043). docs/interop.md says how to install it.
--
-- Wireshark's own "mikey" knows RFC 3830, 4563 and 6509. This one takes the messages of RFC 6043 (Data Types 11 to 18)
-- and Error messages, with all their payloads, and leaves every other message to "mikey".
--
-- Fields are named mikey_ticket.PAYLOAD.FIELD, such as mikey_ticket.idr.role. Nothing is decrypted, no MAC is verified.

local proto = Proto("mikey_ticket", "MIKEY-TICKET (RFC 6043)")

local PORT = 2269 -- IANA: mikey
local MAX_DEPTH = 8 -- blocks in one another: TP Data may hold a TP, whose TP Data may hold a TP, ...

-- numbers of RFC 3830 section 6, RFC 4563 and RFC 6043 section 6 ------------------------------------------------------

local DATA_TYPES = {
    [0] = "PSK_INIT", [1] = "PSK_RESP", [2] = "PK_INIT", [3] = "PK_RESP", [4] = "DH_INIT", [5] = "DH_RESP",
    [6] = "ERROR", [11] = "REQUEST_INIT_PSK", [12] = "REQUEST_INIT_PK", [13] = "REQUEST_RESP",
    [14] = "TRANSFER_INIT", [15] = "TRANSFER_RESP", [16] = "RESOLVE_INIT_PSK", [17] = "RESOLVE_INIT_PK",
    [18] = "RESOLVE_RESP",
}
local ERROR_MESSAGE, FIRST_TICKET_MESSAGE, LAST_TICKET_MESSAGE = 6, 11, 18

local PAYLOADS = {
    [0] = "none, the last payload", [1] = "KEMAC", [2] = "PKE", [3] = "DH", [4] = "SIGN", [5] = "T", [6] = "ID",
    [7] = "CERT", [8] = "CHASH", [9] = "V", [10] = "SP", [11] = "RAND", [12] = "ERR", [13] = "TR", [14] = "IDR",
    [15] = "RANDR", [16] = "TP", [17] = "TICKET", [20] = "Key Data", [21] = "General Extension",
}
local PRFS = { [0] = "MIKEY-1", [1] = "PRF-HMAC-SHA-256" }
local SRTP_ID_MAP, EMPTY_MAP, GENERIC_ID_MAP = 0, 1, 2
local MAP_TYPES = { [0] = "SRTP-ID", [1] = "Empty map", [2] = "GENERIC-ID" }
local PROT_TYPES = { [0] = "SRTP" }
local NULL_ENCRYPTION = 0
local ENCR_ALGS = { [0] = "NULL", [1] = "AES-CM-128", [2] = "AES-KW-128", [3] = "AES-CM-256" }
local MAC_ALGS = { [0] = "NULL", [1] = "HMAC-SHA-1-160", [2] = "HMAC-SHA-256-256" }
local MAC_LENGTHS = { [0] = 0, [1] = 20, [2] = 32 }
local KEY_TYPES = {
    [0] = "TGK", [1] = "TGK+SALT", [2] = "TEK", [3] = "TEK+SALT", [4] = "GTGK", [5] = "GTGK+SALT", [6] = "MPK",
}
local MPK = 6
local SALTED = { [1] = true, [3] = true, [5] = true }
local KV_NULL, KV_SPI, KV_INTERVAL = 0, 1, 2
local KV_TYPES = { [0] = "Null", [1] = "SPI", [2] = "Interval" }
local TS_TYPES = { [0] = "NTP-UTC", [1] = "NTP", [2] = "COUNTER", [3] = "NTP-UTC-32" }
local TS_LENGTHS = { [0] = 8, [1] = 8, [2] = 4, [3] = 4 }
local COUNTER = 2
local REKEYING = 4
local TS_ROLES = { [1] = "time of issue (TRi)", [2] = "start of validity (TRs)", [3] = "end of validity (TRe)",
    [REKEYING] = "rekeying interval (TRr)" }
local BYTE_STRING = 2
local ID_TYPES = { [0] = "NAI", [1] = "URI", [2] = "byte string" }
local ID_ROLES = { [1] = "Initiator (IDRi)", [2] = "Responder (IDRr)", [3] = "KMS (IDRkms)", [4] = "PSK (IDRpsk)",
    [5] = "Application (IDRapp)" }
local RAND_ROLES = { [1] = "Initiator (RANDRi)", [2] = "Responder (RANDRr)", [3] = "KMS (RANDRkms)" }
local CERT_TYPES = { [0] = "X.509v3", [1] = "X.509v3 URL", [2] = "X.509v3 Sign", [3] = "X.509v3 Encr" }
local HASHES = { [0] = "SHA-1", [1] = "MD5", [2] = "SHA-256" }
local HASH_LENGTHS = { [0] = 20, [1] = 16, [2] = 32 }
local SIGN_TYPES = { [0] = "RSA/PKCS#1/1.5", [1] = "RSA/PSS" }
local DH_GROUPS = { [0] = "OAKLEY 5", [1] = "OAKLEY 1", [2] = "OAKLEY 2" }
local DH_LENGTHS = { [0] = 192, [1] = 96, [2] = 128 }
local ERRORS = {
    [0] = "Authentication failure", [1] = "Invalid timestamp", [2] = "PRF function not supported",
    [3] = "MAC algorithm not supported", [4] = "Encryption algorithm not supported",
    [5] = "Hash function not supported", [6] = "DH group not supported", [7] = "ID not supported",
    [8] = "Certificate not supported", [9] = "SP type not supported", [10] = "SP parameters not supported",
    [11] = "Data type not supported", [12] = "Unspecified error", [14] = "Invalid TICKET", [15] = "Invalid TPpar",
}
local BASE_TICKET, DERIVED_TICKET = 1, 61440
local TICKET_TYPES = {
    [BASE_TICKET] = "MIKEY base ticket", [2] = "3GPP base ticket", [DERIVED_TICKET] = "derived ticket",
}
local EXTENSIONS = { [0] = "Vendor ID", [1] = "SDP IDs", [2] = "TESLA I-Key", [3] = "Key ID" }
local SRTP_PARAMS = {
    [0] = "Encryption algorithm", [1] = "Session encr. key length", [2] = "Authentication algorithm",
    [3] = "Session auth. key length", [4] = "Session salt key length", [5] = "SRTP pseudorandom function",
    [6] = "Key derivation rate", [7] = "SRTP encryption", [8] = "SRTCP encryption", [9] = "Sender's FEC order",
    [10] = "SRTP authentication", [11] = "Authentication tag length", [12] = "SRTP prefix length",
}
local FLAGS = { -- of the Ticket Policy: the mask in its 16-bit word; D stands before it
    { "e", 0x8000, "Ticket Resolve is mandatory" },
    { "f", 0x4000, "TRANSFER_RESP is sent" },
    { "g", 0x2000, "the Responder makes RANDRr" },
    { "h", 0x1000, "RANDRi is used with a TGK or GTGK" },
    { "i", 0x0800, "key forking" },
    { "j", 0x0400, "the ticket may be reused" },
    { "k", 0x0200, "the KMS changed the policy or the keys" },
    { "l", 0x0100, "the Initiator may supply keys" },
    { "m", 0x0080, "the Responder may supply keys" },
    { "n", 0x0040, "the Initiator needs RFC 6043 alone" },
    { "o", 0x0020, "the Responder needs RFC 6043 alone" },
}

-- fields --------------------------------------------------------------------------------------------------------------

local f = {}

local function field(kind, name, title, ...)
    f[name] = ProtoField[kind]("mikey_ticket." .. name, title, ...)
end

local function number(name, title, names, kind, mask)
    field(kind or "uint8", name, title, base.DEC, names, mask)
end

local function bytes(name, title)
    field("bytes", name, title)
end

field("none", "hdr", "Common header (HDR)")
number("hdr.version", "Version")
number("hdr.data_type", "Data Type", DATA_TYPES)
number("next_payload", "Next Payload", PAYLOADS)
number("first_payload", "First Payload", PAYLOADS)
number("length", "Length", nil, "uint16")
field("bool", "hdr.v", "V: a response is asked for", 8, nil, 0x80)
number("hdr.prf", "PRF func", PRFS, "uint8", 0x7f)
field("uint32", "hdr.csb_id", "CSB ID", base.HEX)
number("hdr.n_cs", "#CS")
number("hdr.map_type", "CS ID map type", MAP_TYPES)
field("none", "cs", "Crypto session")
number("cs.cs_id", "CS ID")
number("cs.prot_type", "Prot type", PROT_TYPES)
field("bool", "cs.s", "S: ROC and SEQ are in Session Data", 8, nil, 0x80)
number("cs.n_policies", "#P", nil, "uint8", 0x7f)
number("cs.policy_no", "Policy no")
bytes("cs.session_data", "Session Data")
field("uint32", "cs.ssrc", "SSRC", base.HEX)
field("uint32", "cs.roc", "ROC", base.DEC)
number("cs.seq", "SEQ", nil, "uint16")
bytes("cs.spi", "SPI")

for name, title in pairs({
    kemac = "Key data transport (KEMAC)", pke = "Envelope data (PKE)", dh = "DH data (DH)", sign = "Signature (SIGN)",
    t = "Timestamp (T)", tr = "Timestamp with role (TR)", id = "Identity (ID)", idr = "Identity with role (IDR)",
    cert = "Certificate (CERT)", chash = "Certificate hash (CHASH)", v = "Verification message (V)",
    sp = "Security policy (SP)", rand = "RAND", randr = "RAND with role (RANDR)", err = "Error (ERR)",
    tp = "Ticket Policy (TP)", ticket = "TICKET", keydata = "Key Data", genext = "General Extension",
    thdr = "Ticket header (THDR)",
}) do
    field("none", name, title)
end

number("kemac.encr_alg", "Encr alg", ENCR_ALGS)
bytes("kemac.encr_data", "Encr data")
field("none", "kemac.keys", "Encr data: keys in the clear")
number("kemac.mac_alg", "MAC alg", MAC_ALGS)
bytes("kemac.mac", "MAC")
number("keydata.key_type", "Type", KEY_TYPES, "uint8", 0xf0)
number("keydata.kv_type", "KV", KV_TYPES, "uint8", 0x0f)
bytes("keydata.key", "Key data")
bytes("keydata.salt", "Salt")
bytes("kv.spi", "SPI or MKI")
bytes("kv.valid_from", "Valid from")
bytes("kv.valid_to", "Valid to")
number("pke.cache", "C", nil, "uint16", 0xc000)
number("pke.length", "Data length", nil, "uint16", 0x3fff)
bytes("pke.data", "Data")
number("dh.group", "DH group", DH_GROUPS)
bytes("dh.value", "DH value")
number("dh.reserved", "Reserved", nil, "uint8", 0xf0)
number("dh.kv_type", "KV", KV_TYPES, "uint8", 0x0f)
number("sign.s_type", "S type", SIGN_TYPES, "uint16", 0xf000)
number("sign.length", "Signature length", nil, "uint16", 0x0fff)
bytes("sign.signature", "Signature")
for _, name in ipairs({ "t", "tr" }) do
    number(name .. ".ts_type", "TS Type", TS_TYPES)
    bytes(name .. ".value", "TS Value")
end
number("tr.role", "TS Role", TS_ROLES)
number("idr.role", "ID Role", ID_ROLES)
for _, name in ipairs({ "id", "idr" }) do
    number(name .. ".id_type", "ID Type", ID_TYPES)
    field("string", name .. ".identity", "ID Data", base.UNICODE)
    bytes(name .. ".data", "ID Data")
end
number("cert.cert_type", "Cert Type", CERT_TYPES)
bytes("cert.data", "Certificate")
number("chash.hash_func", "Hash func", HASHES)
bytes("chash.hash", "Hash")
number("v.auth_alg", "Auth alg", MAC_ALGS)
bytes("v.mac", "Ver data")
number("sp.policy_no", "Policy no")
number("sp.prot_type", "Prot type", PROT_TYPES)
field("none", "sp.param", "Policy parameter")
number("sp.param.type", "Type")
bytes("sp.param.value", "Value")
bytes("rand.rand", "RAND")
number("randr.role", "RAND Role", RAND_ROLES)
bytes("randr.rand", "RAND")
number("err.error_no", "Error no", ERRORS)
field("uint16", "err.reserved", "Reserved", base.HEX)
number("policy.ticket_type", "Ticket Type", TICKET_TYPES, "uint16")
number("policy.subtype", "Subtype")
number("policy.version", "Version")
number("policy.prf", "PRF Func", PRFS, "uint8", 0xfe)
field("bool", "policy.d", "D: the KMS made the ticket", 8, nil, 0x01)
for _, flag in ipairs(FLAGS) do
    field("bool", "policy." .. flag[1], flag[1]:upper() .. ": " .. flag[3], 16, nil, flag[2])
end
field("uint16", "policy.res", "Res", base.HEX, nil, 0x1f)
field("none", "policy.tp_data", "TP Data")
field("none", "ticket.ticket_data", "Ticket Data")
bytes("ticket.opaque", "Ticket Data")
field("none", "ticket.initiator_data", "Initiator Data: Vi and Vr")
bytes("thdr.data", "THDR Data")
field("none", "entry", "Key of the ticket")
number("thdr.count", "Number of keys")
number("entry.key_type", "Type", KEY_TYPES)
number("entry.key_length", "Key length")
number("entry.salt_length", "Salt length")
bytes("entry.spi", "SPI")
number("genext.ext_type", "Type", EXTENSIONS)
bytes("genext.data", "Data")

proto.fields = f

local malformed = ProtoExpert.new(
    "mikey_ticket.malformed", "MIKEY message is malformed", expert.group.MALFORMED, expert.severity.ERROR)
proto.experts = { malformed }

-- reading -------------------------------------------------------------------------------------------------------------

-- A cursor over the bytes from `pos` to `stop`. Every read is checked, so no message can raise Wireshark's own errors.
local Cursor = {}
Cursor.__index = Cursor

local function cursor(tvb, pos, stop, depth)
    return setmetatable({ tvb = tvb, pos = pos, stop = stop, depth = depth }, Cursor)
end

function Cursor:fail(text)
    error({ malformed = string.format("%s (offset %d)", text, self.pos) }, 0)
end

-- The next `length` bytes, nil for none.
function Cursor:take(length, what)
    if self.pos + length > self.stop then
        self:fail(string.format("%s needs %d bytes, only %d left", what, length, self.stop - self.pos))
    end
    local at = self.pos
    self.pos = at + length
    if length == 0 then
        return nil
    end
    return self.tvb:range(at, length)
end

-- Shows the next `length` bytes as each of the named fields, and returns them.
function Cursor:show(tree, length, name, ...)
    local range = self:take(length, name)
    if range then
        tree:add(f[name], range)
        for _, other in ipairs({ ... }) do
            tree:add(f[other], range)
        end
    end
    return range
end

function Cursor:u8(tree, ...)
    return self:show(tree, 1, ...):uint()
end

function Cursor:u16(tree, ...)
    return self:show(tree, 2, ...):uint()
end

-- A field behind its length in 8 or 16 bits.
function Cursor:block8(tree, name)
    return self:show(tree, self:u8(tree, "length"), name)
end

function Cursor:block16(tree, name)
    return self:show(tree, self:u16(tree, "length"), name)
end

-- A cursor over the next `length` bytes, which are skipped here.
function Cursor:sub(length, what)
    if self.depth == MAX_DEPTH then
        self:fail(what .. " is nested too deep")
    end
    local start = self.pos
    self:take(length, what)
    return cursor(self.tvb, start, self.pos, self.depth + 1)
end

function Cursor:finish()
    if self.pos < self.stop then
        self:fail(string.format("%d bytes left over", self.stop - self.pos))
    end
end

-- Runs `read(...)`; what is malformed in it is marked in `tree` and ends it, but not what surrounds it.
local function guarded(tree, read, ...)
    local done, failure = pcall(read, ...)
    if not done then
        if type(failure) == "table" then
            failure = failure.malformed
        end
        tree:add_proto_expert_info(malformed, tostring(failure))
    end
    return done
end

-- A subtree for what starts at the cursor; `close` gives it its length.
local function open(c, tree, name)
    if c.pos >= c.stop then
        c:fail(name .. " is missing")
    end
    return tree:add(f[name], c.tvb:range(c.pos, c.stop - c.pos)), c.pos
end

local function close(c, item, start)
    item:set_len(c.pos - start)
end

local function named(names, value)
    return names[value] or tostring(value)
end

-- A block of `length` bytes with a subtree of its own, read by `read(cursor, subtree, ...)`.
local function block(c, tree, length, name, read, ...)
    local inner = c:sub(length, name)
    if length > 0 then
        local item = tree:add(f[name], c.tvb:range(inner.pos, length))
        guarded(item, read, inner, item, ...)
    end
end

-- payloads: each reader starts behind Next Payload, and returns what to say on the subtree's line ---------------------

local readers = {}
local without_next = { [4] = true } -- SIGN
local SUBTREES = {
    [1] = "kemac", [2] = "pke", [3] = "dh", [4] = "sign", [5] = "t", [6] = "id", [7] = "cert", [8] = "chash", [9] = "v",
    [10] = "sp", [11] = "rand", [12] = "err", [13] = "tr", [14] = "idr", [15] = "randr", [16] = "tp", [17] = "ticket",
    [20] = "keydata", [21] = "genext",
}

-- Payloads from type `following` on, up to the end of the block.
local function chain(c, tree, following)
    while following ~= 0 do
        local read, name = readers[following], SUBTREES[following]
        if not read then
            c:fail(string.format("Next Payload %d is unknown, so is the length of what starts here", following))
        end
        local item, start = open(c, tree, name)
        local last = without_next[following]
        following = last and 0 or c:u8(item, "next_payload")
        local text = read(c, item)
        if text then
            item:append_text(": " .. text)
        end
        close(c, item, start)
    end
    c:finish()
end

-- A block that starts with First Payload.
local function first_and_chain(c, tree)
    chain(c, tree, c:u8(tree, "first_payload"))
end

local function key_validity(c, tree, kind)
    if kind == KV_SPI then
        c:block8(tree, "kv.spi")
    elseif kind == KV_INTERVAL then
        c:block8(tree, "kv.valid_from")
        c:block8(tree, "kv.valid_to")
    elseif kind ~= KV_NULL then
        c:fail(string.format("KV %d is unknown", kind))
    end
end

readers[20] = function(c, tree)
    local both = c:u8(tree, "keydata.key_type", "keydata.kv_type")
    local kind = math.floor(both / 16)
    if not KEY_TYPES[kind] then
        c:fail(string.format("key type %d is unknown", kind))
    end
    c:block16(tree, "keydata.key")
    if SALTED[kind] then
        c:block16(tree, "keydata.salt")
    end
    key_validity(c, tree, both % 16)
    return KEY_TYPES[kind]
end

local function key_chain(c, tree)
    chain(c, tree, 20)
end

local function mac(c, tree, algorithm, name)
    if not MAC_LENGTHS[algorithm] then
        c:fail(string.format("MAC algorithm %d is unknown, so is the length of the MAC", algorithm))
    end
    c:show(tree, MAC_LENGTHS[algorithm], name)
    return MAC_ALGS[algorithm]
end

readers[1] = function(c, tree)
    local encryption = c:u8(tree, "kemac.encr_alg")
    local length = c:u16(tree, "length")
    if encryption == NULL_ENCRYPTION then
        block(c, tree, length, "kemac.keys", key_chain)
    else
        c:show(tree, length, "kemac.encr_data")
    end
    mac(c, tree, c:u8(tree, "kemac.mac_alg"), "kemac.mac")
    return named(ENCR_ALGS, encryption)
end

readers[2] = function(c, tree)
    c:show(tree, c:u16(tree, "pke.cache", "pke.length") % 0x4000, "pke.data")
end

readers[3] = function(c, tree)
    local group = c:u8(tree, "dh.group")
    if not DH_LENGTHS[group] then
        c:fail(string.format("DH group %d is unknown", group))
    end
    c:show(tree, DH_LENGTHS[group], "dh.value")
    key_validity(c, tree, c:u8(tree, "dh.reserved", "dh.kv_type") % 16)
end

readers[4] = function(c, tree)
    c:show(tree, c:u16(tree, "sign.s_type", "sign.length") % 0x1000, "sign.signature")
end

local NTP_TO_UNIX, ERA = 2208988800, 4294967296

local function timestamp(c, tree, name, role)
    local kind = c:u8(tree, name .. ".ts_type")
    if not TS_LENGTHS[kind] then
        c:fail(string.format("TS Type %d is unknown", kind))
    end
    local value = c:show(tree, TS_LENGTHS[kind], name .. ".value")
    local seconds = value:range(0, 4):uint()
    if kind == COUNTER then
        return "counter " .. seconds
    elseif role == REKEYING then
        return seconds .. " s"
    elseif seconds < ERA / 2 then -- RFC 4330: after the overflow of 2036
        seconds = seconds + ERA
    end
    return os.date("!%Y-%m-%d %H:%M:%S UTC", seconds - NTP_TO_UNIX)
end

readers[5] = function(c, tree)
    return timestamp(c, tree, "t")
end

readers[13] = function(c, tree)
    local role = c:u8(tree, "tr.role")
    return named(TS_ROLES, role) .. ", " .. timestamp(c, tree, "tr", role)
end

-- As text where it is text: Wireshark's strings end at a zero byte.
local function identity(c, tree, name)
    local kind = c:u8(tree, name .. ".id_type")
    local length = c:u16(tree, "length")
    local data = c:take(length, name .. ".data")
    if not data then
        return "empty"
    end
    local raw = data:raw()
    if kind == BYTE_STRING or raw:find("\0", 1, true) then
        tree:add(f[name .. ".data"], data)
        return data:bytes():tohex(true)
    end
    tree:add(f[name .. ".identity"], data)
    return (raw:gsub("[^\32-\126]", "."))
end

readers[6] = function(c, tree)
    return identity(c, tree, "id")
end

readers[14] = function(c, tree)
    local role = c:u8(tree, "idr.role")
    return named(ID_ROLES, role) .. ", " .. identity(c, tree, "idr")
end

readers[7] = function(c, tree)
    local kind = c:u8(tree, "cert.cert_type")
    c:block16(tree, "cert.data")
    return named(CERT_TYPES, kind)
end

readers[8] = function(c, tree)
    local hash = c:u8(tree, "chash.hash_func")
    if not HASH_LENGTHS[hash] then
        c:fail(string.format("Hash func %d is unknown", hash))
    end
    c:show(tree, HASH_LENGTHS[hash], "chash.hash")
    return HASHES[hash]
end

readers[9] = function(c, tree)
    return mac(c, tree, c:u8(tree, "v.auth_alg"), "v.mac")
end

readers[10] = function(c, tree)
    local policy_no, protocol = c:u8(tree, "sp.policy_no"), c:u8(tree, "sp.prot_type")
    local params = c:sub(c:u16(tree, "length"), "policy parameters")
    while params.pos < params.stop do
        local item, start = open(params, tree, "sp.param")
        local kind = params:u8(item, "sp.param.type")
        local value = params:block8(item, "sp.param.value")
        local name = protocol == 0 and SRTP_PARAMS[kind] or tostring(kind)
        item:append_text(": " .. name .. " = " .. (value and value:bytes():tohex(true) or "empty"))
        close(params, item, start)
    end
    return "policy " .. policy_no
end

readers[11] = function(c, tree)
    c:block8(tree, "rand.rand")
end

readers[15] = function(c, tree)
    local role = c:u8(tree, "randr.role")
    c:block8(tree, "randr.rand")
    return named(RAND_ROLES, role)
end

readers[12] = function(c, tree)
    local error_no = c:u8(tree, "err.error_no")
    c:u16(tree, "err.reserved")
    return named(ERRORS, error_no)
end

readers[21] = function(c, tree)
    local kind = c:u8(tree, "genext.ext_type")
    c:block16(tree, "genext.data")
    return named(EXTENSIONS, kind)
end

-- TP and TICKET -------------------------------------------------------------------------------------------------------

-- From Ticket Type to the end of TP Data. Returns Ticket Type, and the type with the flags as text.
local function policy(c, tree)
    local kind = c:u16(tree, "policy.ticket_type")
    c:u8(tree, "policy.subtype")
    c:u8(tree, "policy.version")
    local letters = c:u8(tree, "policy.prf", "policy.d") % 2 == 1 and "D" or ""
    local word = c:take(2, "flags E to O and Res")
    for _, flag in ipairs(FLAGS) do
        tree:add(f["policy." .. flag[1]], word)
        if word:uint() % (2 * flag[2]) >= flag[2] then
            letters = letters .. flag[1]:upper()
        end
    end
    tree:add(f["policy.res"], word)
    block(c, tree, c:u16(tree, "length"), "policy.tp_data", first_and_chain)
    return kind, named(TICKET_TYPES, kind) .. ", flags " .. letters
end

readers[16] = function(c, tree)
    local _, text = policy(c, tree)
    return text
end

-- THDR Data of a derived ticket (docs/ticket-type.md): what keys it stands for.
local function key_list(c, tree)
    local count = c:u8(tree, "thdr.count")
    for i = 1, count do
        local item, start = open(c, tree, "entry")
        local kind = c:u8(item, "entry.key_type")
        if not KEY_TYPES[kind] then
            c:fail(string.format("key type %d is unknown", kind))
        end
        c:u8(item, "entry.key_length")
        c:u8(item, "entry.salt_length")
        c:block8(item, "entry.spi")
        item:append_text(": " .. KEY_TYPES[kind])
        close(c, item, start)
        if (kind == MPK) ~= (i == 1) then
            c:fail("exactly one MPK, the first key, is expected")
        end
    end
    if count == 0 then
        c:fail("exactly one MPK, the first key, is expected")
    end
    c:finish()
end

local function ticket_data(c, tree, kind)
    local item, start = open(c, tree, "thdr")
    local following = c:u8(item, "next_payload")
    local length = c:u16(item, "length")
    local data = c:sub(length, "THDR Data")
    close(c, item, start)
    if length > 0 then
        item:add(f["thdr.data"], c.tvb:range(data.pos, length))
        if kind == DERIVED_TICKET then
            guarded(item, key_list, data, item)
        end
    end
    chain(c, tree, following)
end

readers[17] = function(c, tree)
    local kind, text = policy(c, tree)
    local length = c:u16(tree, "length")
    if kind == BASE_TICKET or kind == DERIVED_TICKET then
        block(c, tree, length, "ticket.ticket_data", ticket_data, kind)
    else
        c:show(tree, length, "ticket.opaque")
    end
    block(c, tree, c:u16(tree, "length"), "ticket.initiator_data", first_and_chain)
    return text
end

-- HDR -----------------------------------------------------------------------------------------------------------------

local function session_data(c, tree, has_roc)
    c:show(tree, 4, "cs.ssrc")
    if has_roc then
        c:show(tree, 4, "cs.roc")
        c:u16(tree, "cs.seq")
    end
    c:finish()
end

local function generic_id(c, tree)
    local item, start = open(c, tree, "cs")
    local cs_id = c:u8(item, "cs.cs_id")
    local protocol = c:u8(item, "cs.prot_type")
    local s_and_p = c:u8(item, "cs.s", "cs.n_policies")
    for _ = 1, s_and_p % 128 do
        c:u8(item, "cs.policy_no")
    end
    local length = c:u16(item, "length")
    if protocol == 0 and length > 0 then
        local data = c:sub(length, "Session Data")
        local shown = item:add(f["cs.session_data"], c.tvb:range(data.pos, length))
        guarded(shown, session_data, data, shown, s_and_p >= 128)
    else
        c:show(item, length, "cs.session_data")
    end
    c:block8(item, "cs.spi")
    item:append_text(" " .. cs_id)
    close(c, item, start)
end

local function srtp_id(c, tree)
    local item, start = open(c, tree, "cs")
    c:u8(item, "cs.policy_no")
    c:show(item, 4, "cs.ssrc")
    c:show(item, 4, "cs.roc")
    close(c, item, start)
end

local SESSIONS = { [SRTP_ID_MAP] = srtp_id, [EMPTY_MAP] = false, [GENERIC_ID_MAP] = generic_id }

local function header(c, tree)
    local item, start = open(c, tree, "hdr")
    c:u8(item, "hdr.version")
    c:u8(item, "hdr.data_type")
    local following = c:u8(item, "next_payload")
    c:u8(item, "hdr.v", "hdr.prf")
    c:show(item, 4, "hdr.csb_id")
    local count = c:u8(item, "hdr.n_cs")
    local map_type = c:u8(item, "hdr.map_type")
    local read = SESSIONS[map_type]
    if read == nil then
        c:fail(string.format("CS ID map type %d is unknown", map_type))
    end
    for _ = 1, read and count or 0 do
        read(c, item)
    end
    close(c, item, start)
    return following
end

local function message(c, tree)
    local following = header(c, tree)
    if following == 0 then
        c:fail("a payload must follow HDR")
    end
    chain(c, tree, following)
end

-- the dissector -------------------------------------------------------------------------------------------------------

local HDR_LENGTH = 10
local builtin = Dissector.get("mikey")

function proto.dissector(tvb, pinfo, root)
    if tvb:len() < HDR_LENGTH or tvb:range(0, 1):uint() ~= 1 then
        return 0
    end
    local kind = tvb:range(1, 1):uint()
    if kind ~= ERROR_MESSAGE and (kind < FIRST_TICKET_MESSAGE or kind > LAST_TICKET_MESSAGE) then
        -- What "mikey" finds malformed comes here as a Lua error.
        if not pcall(builtin.call, builtin, tvb, pinfo, root) then
            root:add_proto_expert_info(malformed, "malformed, says Wireshark's own dissector")
        end
        return tvb:len()
    end
    pinfo.cols.protocol:set("MIKEY-TICKET")
    pinfo.cols.info:set(string.format("%s, CSB ID 0x%08x", DATA_TYPES[kind], tvb:range(4, 4):uint()))
    local tree = root:add(proto, tvb:range(0))
    tree:append_text(", " .. DATA_TYPES[kind])
    guarded(tree, message, cursor(tvb, 0, tvb:len(), 0), tree)
    return tvb:len()
end

for _, name in ipairs({ "udp.port", "tcp.port" }) do
    DissectorTable.get(name):add(PORT, proto)
end
DissectorTable.get("key_mgmt"):add("mikey", proto) -- a=key-mgmt:mikey in SDP (RFC 4567)
