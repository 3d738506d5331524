package portmap

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name     string
		mappings []Mapping
		want     string // empty where they are right
	}{
		{"none", nil, ""},
		{"the shortest", []Mapping{{HostPort: 8080, ContainerPort: 80}}, ""},
		{"a kubelet's", []Mapping{{HostPort: 53, ContainerPort: 53, Protocol: "TCP", HostIP: "0.0.0.0"}, {HostPort: 53, ContainerPort: 53, Protocol: "UDP"}}, ""},
		{"one port of two addresses", []Mapping{{HostPort: 80, ContainerPort: 80, HostIP: "172.16.1.8"}, {HostPort: 80, ContainerPort: 81, HostIP: "fd00::8"}}, ""},
		{"no host port", []Mapping{{ContainerPort: 80}}, "portMappings[0]: hostPort 0 is not within 1 and 65535"},
		{"a large port", []Mapping{{HostPort: 80, ContainerPort: 70000}}, "containerPort 70000"},
		{"another protocol", []Mapping{{HostPort: 80, ContainerPort: 80, Protocol: "icmp"}}, `protocol "icmp" is none of`},
		{"a name for an address", []Mapping{{HostPort: 80, ContainerPort: 80, HostIP: "here"}}, "hostIP"},
		{"twice", []Mapping{{HostPort: 80, ContainerPort: 80}, {HostPort: 80, ContainerPort: 81, Protocol: "tcp"}}, "portMappings[1]: host port 80/tcp is in the list already"},
		{"of one address and of all", []Mapping{{HostPort: 80, ContainerPort: 80, HostIP: "172.16.1.8"}, {HostPort: 80, ContainerPort: 81, HostIP: "::"}}, "80/tcp is in the list"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Validate(tc.mappings)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
		})
	}
}

// A mapping's comment tells the next ADD whose the port is.
func TestPortsAreReadAsWritten(t *testing.T) {
	for _, m := range []Mapping{
		{HostPort: 8080},
		{HostPort: 53, Protocol: "UDP", HostIP: "172.16.1.8"},
		{HostPort: 65535, Protocol: "sctp", HostIP: "fd00::8"},
	} {
		want, err := m.port()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parsePort(want.String()); err != nil || got != want {
			t.Errorf("%s is read as %v (%v)", want, got, err)
		}
	}
}

// The kernel keeps so many bytes of a comment, and no name is cut.
func TestALongNameIsRefused(t *testing.T) {
	for n, refused := range map[int]bool{241: false, 242: true} {
		target := Target{Owner: Owner{strings.Repeat("x", n), "eth0"},
			Addresses: []netip.Prefix{loopback}, Mappings: []Mapping{{HostPort: 80, ContainerPort: 80}}}
		if _, err := target.rules(); (err != nil) != refused {
			t.Errorf("a name of %d bytes: %v", n, err)
		}
	}
}
