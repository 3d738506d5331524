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
	for _, key := range []string{"10.5.70.0-24", "10.5.70.0-24&fc00:5:0:5f::-64"} {
		want.Key = key
		got, err := parse(key, []byte(vxlan))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", key, got, err, want)
		}
	}
	if l, err := parse("10.5.70.0-24", []byte(`{"PublicIP":"172.16.1.3","BackendType":"host-gw"}`)); err != nil || l.BackendType != "host-gw" {
		t.Errorf("host-gw: %+v, %v", l, err)
	}
	for key, c := range map[string]struct{ value, want string }{
		"hello":        {vxlan, "no subnet"},
		"10.5.70.0-99": {vxlan, "no subnet"},
		"10.5.70.0-24": {"{", "value"},
		"10.5.71.0-24": {`{"BackendType":"vxlan","PublicIP":"172.16.1.3","BackendData":{"VtepMAC":"no"}}`, "backend data"},
		"10.5.72.0-24": {`{"BackendType":"vxlan","PublicIP":"172.16.1.3"}`, "backend data"},
	} {
		if _, err := parse(key, []byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error about %q", key, err, c.want)
		}
	}
}
