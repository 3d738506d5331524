package topology

import (
	"crypto/sha256"
	"fmt"
	"net"
)

// MAC is a 48-bit Ethernet address. It is comparable and marshals as the
// usual lower-case, colon-separated text. The zero MAC means "not fixed".
type MAC [6]byte

// ParseMAC reads the forms that net.ParseMAC accepts, limited to 48 bits.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, err
	}
	if len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q has %d bytes, an Ethernet address has 6", s, len(hw))
	}
	return MAC(hw), nil
}

// DeriveMAC makes a stable, locally administered unicast address from the
// names that identify an interface, so that a lab has the same addresses on
// every run and on every machine.
func DeriveMAC(names ...string) MAC {
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%d:%s", len(n), n)
	}
	m := MAC(h.Sum(nil)[:6])
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// IsZero reports whether the address is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast reports whether the address can belong to one interface: it is
// set, and its group bit (IEEE 802) is clear.
func (m MAC) IsUnicast() bool { return !m.IsZero() && m[0]&0x01 == 0 }

// HardwareAddr returns the address as the standard library's type.
func (m MAC) HardwareAddr() net.HardwareAddr { return net.HardwareAddr(m[:]) }

func (m MAC) String() string {
	if m.IsZero() {
		return ""
	}
	return m.HardwareAddr().String()
}

// MarshalText implements encoding.TextMarshaler; the zero MAC is empty text.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}
