package capture

import "testing"

func TestWireGuard(t *testing.T) {
	for name, c := range map[string]struct {
		first          []byte // of the datagram
		length         int    // of the datagram
		text           string
		valid, carries bool
	}{
		"initiation":       {[]byte{1, 0, 0, 0}, 148, "WireGuard initiation, length 148", true, false},
		"response":         {[]byte{2, 0, 0, 0}, 92, "WireGuard response, length 92", true, false},
		"cookie":           {[]byte{3, 0, 0, 0}, 64, "WireGuard cookie, length 64", true, false},
		"data":             {[]byte{4, 0, 0, 0}, 128, "WireGuard data, length 128", true, true},
		"keepalive":        {[]byte{4, 0, 0, 0}, 32, "WireGuard keepalive, length 32", true, false},
		"of all the MTU":   {[]byte{4, 0, 0, 0}, 1452, "WireGuard data, length 1452", true, true},
		"cut data":         {[]byte{4, 0, 0, 0}, 31, "WireGuard data, length 31", false, false},
		"short initiation": {[]byte{1, 0, 0, 0}, 100, "WireGuard initiation, length 100", false, false},
		"IPv4":             {[]byte{0x45, 0, 0, 0x54}, 84, "WireGuard type 69, length 84, reserved 0x540000", false, false},
	} {
		p := Packet{Headers: Headers{Layers: LayerIPv4 | LayerUDP, Payload: c.first, UDP: UDP{Length: uint16(8 + c.length)}}}
		m, ok := p.WireGuard()
		if !ok || m.String() != c.text || m.Valid() != c.valid || m.Carries() != c.carries {
			t.Errorf("%s: %s, valid %t, carries %t", name, m, m.Valid(), m.Carries())
		}
	}
	if _, ok := new(Packet).WireGuard(); ok {
		t.Error("an empty packet is WireGuard")
	}
}
