package ipsec

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/agent/datapath"
)

// nonceLen is the length in bytes of the random number that a node publishes:
// two nodes, or one at two times, never have the same.
const nonceLen = 32

// checkLen is the length in bytes of what tells whether two nodes have one
// pre-shared key.
const checkLen = 16

// leaseData is the BackendData of a lease. Both are base64 in JSON.
type leaseData struct {
	Nonce []byte
	// Check is made of the pre-shared key and the nonce: see keys.check.
	Check []byte
}

// readNonce reads a peer's BackendData. Its error says why there can be no
// associations with that peer.
func (k keys) readNonce(data json.RawMessage) ([]byte, error) {
	if len(data) == 0 || string(data) == "null" {
		return nil, errors.New("it has no BackendData with a nonce: its node runs flanneld, whose ipsec exchanges keys by IKE, and this one's does not")
	}
	var d leaseData
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("read its BackendData: %w", err)
	}
	if len(d.Nonce) != nonceLen {
		return nil, fmt.Errorf("the Nonce in its BackendData has %d bytes, not %d", len(d.Nonce), nonceLen)
	}
	if !hmac.Equal(d.Check, k.check(d.Nonce)) {
		return nil, errors.New("its node has another PSK: restart the agents that started before it was changed in net-conf.json")
	}
	return d.Nonce, nil
}

// end is one end of a tunnel.
type end struct {
	ip    netip.Addr
	nonce []byte
}

// keys makes the associations' keys of the pre-shared key. For packets from one
// node to another, the key, its salt and the SPI are the output of
//
//	HKDF-SHA256 (RFC 5869)
//	  secret  PSK, as it stands in net-conf.json
//	  salt    the source's nonce, then the destination's: 64 bytes
//	  info    "overlab ipsec 1 SOURCE DESTINATION", the PublicIPs as text
//	  length  24: the AES key 16, its salt 4 (RFC 4106, section 8.1), the SPI 4,
//	          big endian, with the highest bit set, as 0 to 255 are not free
//
// So both ends know both directions' keys from the leases alone, each direction
// has its own, and a nonce that is new at either end makes new ones of both.
// Who learns the pre-shared key can read what was recorded before: there is no
// forward secrecy, unlike with IKE.
//
// That two nodes have one pre-shared key is told by check.
type keys struct{ psk string }

// check is the output of HKDF-SHA256 with the same secret, a node's nonce as
// salt, info "overlab ipsec 1 check", and length 16. Who reads it, in a lease,
// can try pre-shared keys, as who records one packet can: neither finds one of
// 96 random characters.
func (k keys) check(nonce []byte) []byte { return k.derive(nonce, "overlab ipsec 1 check", checkLen) }

// derive is HKDF-SHA256 with the pre-shared key as the secret.
func (k keys) derive(salt []byte, info string, length int) []byte {
	out, err := hkdf.Key(sha256.New, []byte(k.psk), salt, info, length)
	if err != nil {
		panic(err) // for a length of more than 8160 bytes only
	}
	return out
}

// association makes that for packets from src to dst.
func (k keys) association(src, dst end) datapath.SA {
	salt := append(append(make([]byte, 0, 2*nonceLen), src.nonce...), dst.nonce...)
	out := k.derive(salt, fmt.Sprintf("overlab ipsec 1 %s %s", src.ip, dst.ip), 24)
	return datapath.SA{
		Src: src.ip, Dst: dst.ip, Key: datapath.SAKey(out[:20]),
		SPI: binary.BigEndian.Uint32(out[20:]) | 1<<31,
	}
}
