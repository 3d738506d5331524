package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stock is the plugin's part of the conflist in flannel's manifest.
const stock = `{"name":"cbr0","cniVersion":"0.3.1","type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}}`

func TestRecordIsFlannels(t *testing.T) {
	for _, tc := range []struct{ name, conf, env, want string }{
		{
			"the stock configuration", stock,
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.85.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
			`{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.85.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		},
		{
			"the older form, as articles of 2019 show it",
			`{"name":"cbr0","delegate":{"hairpinMode":true,"isDefaultGateway":true},"legacyRecords":true}`,
			"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n",
			`{"hairpinMode":true,"ipMasq":false,"ipam":{"routes":[{"dst":"10.244.0.0/16"}],"subnet":"10.244.1.0/24","type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1400,"name":"cbr0","type":"bridge"}`,
		},
		{
			"dual stack, routes, what the runtime asks for, the delegate's own mtu",
			`{"name":"cbr0","ipam":{"routes":[{"dst":"192.168.0.0/24","gw":"10.1.1.9"}]},"delegate":{"mtu":1300},"runtimeConfig":{"mac":"0a:00:00:00:00:01"}}`,
			"FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
			`{"ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.1.1.0/24"}],[{"subnet":"fd00:0:0:1::/64"}]],"routes":[{"dst":"192.168.0.0/24","gw":"10.1.1.9"},{"dst":"10.1.0.0/16"},{"dst":"fd00::/48"}],"type":"host-local"},"isGateway":true,"mtu":1300,"name":"cbr0","runtimeConfig":{"mac":"0a:00:00:00:00:01"},"type":"bridge"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := parse(t, tc.conf)
			conf.SubnetFile = write(t, tc.env)
			n, err := conf.resolve()
			if err != nil {
				t.Fatal(err)
			}
			if got := string(n.record); got != tc.want {
				t.Errorf("record\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	const env = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.85.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	for _, tc := range []struct{ name, conf, env, want string }{
		{"the delegate's name", `{"name":"n","delegate":{"name":"x"}}`, env, `"name" must not be given`},
		{"the delegate's ipam", `{"name":"n","delegate":{"ipam":{}}}`, env, `"ipam" must not be given`},
		{"another delegate", `{"name":"n","delegate":{"type":"ipvlan"}}`, env, `type "ipvlan"`},
		{"another ipam", `{"name":"n","ipam":{"type":"dhcp"}}`, env, `type "dhcp"`},
		{"a VLAN", `{"name":"n","delegate":{"vlan":7}}`, env, "vlan is not supported"},
		{"promiscuous mode", `{"name":"n","delegate":{"promiscMode":true}}`, env, "promiscMode is not supported"},
		{"an MTU", `{"name":"n","delegate":{"mtu":20}}`, env, "mtu 20 is not within"},
		{"a word for a number", `{"name":"n","delegate":{"mtu":"big"}}`, env, "mtu"},
		{"a subnet without hosts", `{"name":"n"}`, strings.Replace(env, "85.1/24", "85.1/31", 1), "too small"},
		{"no MTU", `{"name":"n"}`, "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.85.1/24\nFLANNEL_IPMASQ=true\n", `FLANNEL_MTU is ""`},
		{"nothing in the file", `{"name":"n"}`, "", "FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET are missing"},
		{"a bad network", `{"name":"n"}`, strings.Replace(env, "10.5.0.0/16", "10.5.0.0", 1), "FLANNEL_NETWORK"},
		{"legacy records of two families", `{"name":"n","legacyRecords":true}`, env + "FLANNEL_IPV6_SUBNET=fd00::1/64\n", "legacyRecords"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := parse(t, tc.conf)
			conf.SubnetFile = write(t, tc.env)
			_, err := conf.resolve()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one that says %q", err, tc.want)
			}
		})
	}
}

func TestWishes(t *testing.T) {
	const env = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.85.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	for _, tc := range []struct{ name, conf, args, ip, mac, host, err string }{
		{name: "none", conf: `{"name":"n"}`},
		{name: "by CNI_ARGS", conf: `{"name":"n"}`, args: "IP=10.5.85.9;MAC=0a:00:00:00:00:09;HostInterface=veth9",
			ip: "10.5.85.9", mac: "0a:00:00:00:00:09", host: "veth9"},
		{name: "an address with its length", conf: `{"name":"n"}`, args: "IP=10.5.85.9/24", ip: "10.5.85.9"},
		{name: "capabilities win",
			conf: `{"name":"n","runtimeConfig":{"ips":["10.5.85.8/24"],"mac":"0a:00:00:00:00:08","hostInterface":"veth8"}}`,
			args: "IP=10.5.85.9;MAC=0a:00:00:00:00:09;HostInterface=veth9",
			ip:   "10.5.85.8", mac: "0a:00:00:00:00:08", host: "veth8"},
		{name: "a kubelet's", conf: `{"name":"n"}`, args: "IgnoreUnknown=1;K8S_POD_NAME=p"},
		{name: "unknown", conf: `{"name":"n"}`, args: "COLOUR=red", err: "COLOUR"},
		{name: "no address", conf: `{"name":"n"}`, args: "IP=here", err: "here"},
		{name: "a group's MAC", conf: `{"name":"n"}`, args: "MAC=01:00:5e:00:00:01", err: "not a unicast"},
		{name: "the zero MAC", conf: `{"name":"n"}`, args: "MAC=00:00:00:00:00:00", err: "not a unicast"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := parse(t, tc.conf)
			conf.SubnetFile = write(t, env)
			n, err := conf.resolve()
			if err != nil {
				t.Fatal(err)
			}
			w, err := n.wishes(tc.args)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want one that says %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ip := ""
			if len(w.ips) > 0 {
				ip = w.ips[0].String()
			}
			if ip != tc.ip || w.mac.String() != tc.mac || w.hostInterface != tc.host {
				t.Errorf("got %s %s %s, want %s %s %s", ip, w.mac, w.hostInterface, tc.ip, tc.mac, tc.host)
			}
		})
	}
}

func TestHostInterfaceIsStableAndApart(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{"a", "b", strings.Repeat("0dc487cc", 8)} {
		for _, ifname := range []string{"eth0", "eth1"} {
			name := hostInterface(wishes{}, Request{ContainerID: id, IfName: ifname})
			if again := hostInterface(wishes{}, Request{ContainerID: id, IfName: ifname}); again != name {
				t.Errorf("%s then %s", name, again)
			}
			if seen[name] || len(name) != len("veth")+8 {
				t.Errorf("name %q of %s %s", name, id, ifname)
			}
			seen[name] = true
		}
	}
}

func parse(t testing.TB, conf string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
