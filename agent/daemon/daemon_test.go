package daemon

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	var out bytes.Buffer
	s, err := parse([]string{
		"-etcd-endpoints=http://a:1, http://b:2", "--iface=eth0", "-iface", "eth1", "--ip-masq", "-v=4",
		"--iptables-forward-rules=false", "-healthz-port=8080", "--vmodule=x=1",
	}, []string{
		"FLANNELD_ETCD_PREFIX=/other", "FLANNELD_IFACE=eth9", "FLANNELD_PUBLIC_IP=192.0.2.1", "FLANNELD_IPTABLES_RESYNC=7",
		"FLANNELD_SUBNET_FILE=", "OTHER=x",
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"http://a:1", "http://b:2"}, s.endpointList()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(texts{"eth0", "eth1"}, s.iface); d != "" {
		t.Error("the environment must not add to a given flag:", d)
	}
	if s.prefix != "/other" || s.underlay().PublicIP.String() != "192.0.2.1" || s.firewallResync() != 7*time.Second ||
		s.subnetFile != "/run/flannel/subnet.env" || !s.masquerade || s.forward || s.verbosity != 4 || s.margin() != time.Hour {
		t.Errorf("%+v", s)
	}
}

func TestRunUsage(t *testing.T) {
	for _, tt := range []struct {
		args, env string
		code      int
		out       string
	}{
		{"--version", "", 0, "overlabd"},
		{"-help", "", 0, "-iface-can-reach"},
		{"--no-such-flag", "", 2, "overlabd: flag provided but not defined: -no-such-flag\n"},
		{"stray", "", 2, `unexpected argument "stray"`},
		{"--kube-subnet-mgr --kube-api-url=http://127.0.0.1:1", "", 1, "set NODE_NAME, or POD_NAME and POD_NAMESPACE"},
		{"--kube-subnet-mgr --kube-api-url=http://127.0.0.1:1", "POD_NAME=agent", 1, "set NODE_NAME, or POD_NAME and POD_NAMESPACE"},
		{"--kube-subnet-mgr", "NODE_NAME=a", 1, "this is no pod of a cluster; name the API with --kubeconfig-file or --kube-api-url"},
		{"--kube-subnet-mgr --kubeconfig-file=/nowhere/config", "NODE_NAME=a", 1, "--kubeconfig-file=/nowhere/config"},
		{"--kube-subnet-mgr --kube-annotation-prefix=nodots", "NODE_NAME=a", 1, "is not a full domain name"},
		{"--kube-subnet-mgr --net-config-path=", "NODE_NAME=a", 2, "--net-config-path is empty"},
		{"--subnet-lease-renew-margin=1440", "", 2, "it must be 1 to 1439 minutes"},
		{"--iptables-resync=0 --healthz-port=-1", "", 2, "--healthz-port=-1 is not a TCP port"},
		{"--public-ip=here", "", 2, "--public-ip=here is not an IPv4 address"},
		{"--public-ipv6=10.0.0.1", "", 2, "--public-ipv6=10.0.0.1 is not an IPv6 address"},
		{"--public-ipv6=fe80::1", "", 2, "--public-ipv6=fe80::1 is link-local"},
		{"--iface-can-reach=here", "", 2, "--iface-can-reach=here is not an IP address"},
		{"--subnet-file=", "", 2, "--subnet-file is empty"},
		{"--iface-regex=[ --iface-regex=eth", "", 2, "--iface-regex=[: error parsing regexp"},
		{"--etcd-endpoints=,", "", 2, "--etcd-endpoints is empty"},
		{"--log-format=xml", "", 2, "--log-format=xml is neither text nor json"},
		{"--log-format=json --etcd-cafile=/nowhere/ca.pem", "", 1, `"level":"ERROR","msg":"overlabd ends"`},
		{"--cleanup --dry-run", "", 2, "exclude each other"},
		{"--dry-run --etcd-cafile=/nowhere/ca.pem", "", 2, "no dry run"},
		{"--etcd-certfile=/c.pem", "", 2, "--etcd-certfile is given without --etcd-keyfile"},
		{"--etcd-keyfile=/k.pem", "", 2, "--etcd-keyfile is given without --etcd-certfile"},
		{"--etcd-username=me", "", 2, "--etcd-username is given without --etcd-password"},
		{"--etcd-password=secret", "FLANNELD_ETCD_USERNAME=", 2, "--etcd-password is given without --etcd-username"},
		{"--etcd-endpoints=http://10.0.0.1:2379,::bad", "", 2, "--etcd-endpoints: ::bad is not the URL of an etcd"},
		{"--etcd-endpoints=http://", "", 2, "--etcd-endpoints: http:// is not the URL"},
		{"--etcd-endpoints=10.0.0.1", "", 2, "--etcd-endpoints: 10.0.0.1 is not the URL"},
		{"--etcd-endpoints=etcd.svc:2379,unix:///run/etcd.sock --etcd-cafile=/nowhere/ca.pem", "", 1, "read etcd's certificate authority"},
		{"", "FLANNELD_IP_MASQ=perhaps", 2, `FLANNELD_IP_MASQ="perhaps"`},
		{"--etcd-cafile=/nowhere/ca.pem", "", 1, "read etcd's certificate authority: open /nowhere/ca.pem"},
	} {
		var out bytes.Buffer
		code := Run(t.Context(), strings.Fields(tt.args), &out, &out, strings.Fields(tt.env))
		if code != tt.code || !strings.Contains(out.String(), tt.out) {
			t.Errorf("overlabd %s: exit %d, %s", tt.args, code, out.String())
		}
	}
}

func TestFlagsAreFlannelds(t *testing.T) {
	f := new(settings).flagSet()
	for name, value := range map[string]string{
		"etcd-endpoints": "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd-prefix": "/coreos.com/network",
		"etcd-keyfile": "", "etcd-certfile": "", "etcd-cafile": "", "etcd-username": "", "etcd-password": "",
		"iface": "", "iface-regex": "", "iface-can-reach": "", "subnet-file": "/run/flannel/subnet.env",
		"public-ip": "", "public-ipv6": "", "subnet-lease-renew-margin": "60", "ip-masq": "false",
		"ip-masq-fully-random-disable": "false", "kube-subnet-mgr": "false", "kube-api-url": "", "kubeconfig-file": "",
		"kube-annotation-prefix": "flannel.alpha.coreos.com", "net-config-path": "/etc/kube-flannel/net-conf.json",
		"version": "false", "healthz-ip": "0.0.0.0", "healthz-port": "0", "iptables-resync": "5",
		"iptables-forward-rules": "true", "ip-blackhole-route": "false", "set-node-network-unavailable": "true",
		"v": "0", "vmodule": "", "log_backtrace_at": "",
	} {
		if fl := f.Lookup(name); fl == nil || fl.DefValue != value {
			t.Errorf("--%s: %+v, flanneld has the default %q", name, fl, value)
		}
	}
}
