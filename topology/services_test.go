package topology

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func TestServices(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"no cluster", "  {}\n", "invalid Prefix"},
		{"kind", "  provider: kind\n", "10.96.0.0/16"},
		{"chosen", "  provider: kind\n  serviceCIDR: 10.200.0.0/20\n", "10.200.0.0/20"},
		{"chosen for another provider", "  serviceCIDR: 10.200.0.0/20\n", "10.200.0.0/20"},
	} {
		if got := plan(t, tt.spec).ServiceCIDR; got.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestServiceRules(t *testing.T) {
	testBad(t, header, []badSpec{
		{"host bits", "  serviceCIDR: 10.96.0.1/16\n", []string{
			"4:16: spec.serviceCIDR: is 10.96.0.1/16, an address within a network; write 10.96.0.0/16"}},
		{"family", "  serviceCIDR: fd00:10:96::/112\n", []string{
			"4:16: spec.serviceCIDR: is fd00:10:96::, of IPv6; an IPv4 one belongs here"}},
		{"loopback", "  serviceCIDR: 127.0.0.0/16\n", []string{
			"4:16: spec.serviceCIDR: is 127.0.0.0/16, which overlaps loopback, 127.0.0.0/8; choose a private one such as 10.96.0.0/16"}},
		{"too wide", "  serviceCIDR: 11.0.0.0/8\n", []string{
			"4:16: spec.serviceCIDR: is a /8; Kubernetes takes a /12 to /28"}},
		{"too small", "  serviceCIDR: 10.96.0.0/29\n", []string{
			"4:16: spec.serviceCIDR: is a /29; Kubernetes takes a /12 to /28"}},
		{"over the overlay", "  serviceCIDR: 10.244.0.0/20\n", []string{
			"4:16: spec.serviceCIDR: is 10.244.0.0/20, which overlaps the overlay's network 10.244.0.0/16; choose one outside it"}},
		{"over a segment", "  serviceCIDR: 172.16.0.0/16\n", []string{
			"4:16: spec.serviceCIDR: is 172.16.0.0/16, which overlaps the 172.16.1.0/24 of segment lan; choose one outside it"}},
		{"kind's own, over the overlay", "  provider: kind\n  network: {Network: 10.96.0.0/12}\n", []string{
			"4:3: spec.serviceCIDR: is 10.96.0.0/16, which overlaps the overlay's network 10.96.0.0/12; choose one outside it"}},
		{"no CIDR", "  provider: kind\n  serviceCIDR: ten\n", []string{
			`5:16: spec.serviceCIDR: is "ten"; a CIDR such as 172.16.1.0/24 or fd00::/64 belongs here`}},
	})
}

func TestServicesShown(t *testing.T) {
	p := plan(t, "  {}\n")
	p.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	var b bytes.Buffer
	if err := WriteTable(&b, p); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\nservices 10.96.0.0/16\n") {
		t.Errorf("no services in\n%s", &b)
	}
}
