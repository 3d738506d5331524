package lease

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

func TestParse(t *testing.T) {
	want := Lease{
		Subnet: netip.MustParsePrefix("10.5.70.0/24"), PublicIP: netip.MustParseAddr("172.16.1.3"),
		BackendType: "vxlan", VNI: 1, VtepMAC: topology.MAC{0xc2, 0x47, 0x8c, 0x7b, 0x96, 0x4c},
	}
	vxlan := `{"PublicIP":"172.16.1.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c2:47:8c:7b:96:4c"}}`
	dual, only6 := want, want
	want.Key, dual.Key, only6.Key = "10.5.70.0-24", "10.5.70.0-24&fc00:5:0:5f::-64", "0.0.0.0-0&fc00:5:0:5f::-64"
	dual.Subnet6, dual.PublicIPv6, dual.VtepMAC6 = netip.MustParsePrefix("fc00:5:0:5f::/64"), netip.MustParseAddr("fd00::3"), topology.MAC{2, 0, 0, 0, 0, 6}
	only6.Subnet, only6.PublicIP, only6.VtepMAC = netip.Prefix{}, netip.Addr{}, topology.MAC{}
	only6.Subnet6, only6.PublicIPv6, only6.VtepMAC6 = dual.Subnet6, dual.PublicIPv6, dual.VtepMAC6
	const v6 = `"PublicIPv6":"fd00::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`
	for value, want := range map[string]Lease{
		vxlan: want,
		`{"PublicIP":"172.16.1.3","BackendData":{"VNI":1,"VtepMAC":"c2:47:8c:7b:96:4c"},` + v6 + `}`: dual,
		`{"PublicIP":"0.0.0.0",` + v6 + `}`: only6,
	} {
		got, err := parse(want.Key, []byte(value))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", want.Key, got, err, want)
		}
	}
	if l, err := parse("10.5.70.0-24", []byte(`{"PublicIP":"172.16.1.3","BackendType":"host-gw"}`)); err != nil || l.BackendType != "host-gw" {
		t.Errorf("host-gw: %+v, %v", l, err)
	}
	for key, c := range map[string]struct{ value, want string }{
		"hello":                  {vxlan, "no subnet"},
		"10.5.70.0-99":           {vxlan, "no subnet"},
		"10.5.70.0-24":           {"{", "value"},
		"10.5.71.0-24":           {`{"BackendType":"vxlan","PublicIP":"172.16.1.3","BackendData":{"VtepMAC":"no"}}`, "backend data"},
		"10.5.70.0-24&fc00":      {vxlan, "no IPv6 subnet"},
		"10.5.70.0-24&fc00::-64": {vxlan, "backend data"},
		"10.5.72.0-24":           {`{"BackendType":"vxlan","PublicIP":"172.16.1.3"}`, "backend data"},
	} {
		if _, err := parse(key, []byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error about %q", key, err, c.want)
		}
	}
}
