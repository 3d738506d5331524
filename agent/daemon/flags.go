package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/overlab/overlab/agent/backend/wireguard"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/lease/kube"
	"github.com/overlab/overlab/agent/underlay"
)

// settings are the values of the flags: flanneld's, with its defaults.
type settings struct {
	endpoints                 string
	prefix                    string
	caFile, certFile, keyFile string
	username, password        string

	iface, ifaceRegex texts
	canReach          string
	publicIP          string
	publicIPv6        string

	subnetFile  string
	renewMargin int // minutes
	resync      int // seconds
	masquerade  bool
	predictable bool
	forward     bool
	blackhole   bool
	harden      bool
	healthzIP   string
	healthzPort int
	verbosity   int
	logFormat   string
	// wireguardKey is the file of the node's private key.
	wireguardKey string

	kube                  bool
	kubeURL, kubeconfig   string
	annotationPrefix      string
	netConfPath           string
	announceNetwork       bool
	nodeName              string // from the environment, like the pod's
	podName, podNamespace string

	version, cleanup, dryRun bool
}

// texts is a flag that may be given more than once.
type texts []string

func (t *texts) String() string { return strings.Join(*t, ",") }

func (t *texts) Set(s string) error {
	*t = append(*t, s)
	return nil
}

// envPrefix begins the environment twin of every flag.
const envPrefix = "FLANNELD_"

func (s *settings) flagSet() *flag.FlagSet {
	f := flag.NewFlagSet("overlabd", flag.ContinueOnError)
	f.StringVar(&s.endpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "comma-separated `URLs` of etcd")
	f.StringVar(&s.prefix, "etcd-prefix", "/coreos.com/network", "`folder` of the configuration and the leases in etcd")
	f.StringVar(&s.keyFile, "etcd-keyfile", "", "PEM `file` of the client's key")
	f.StringVar(&s.certFile, "etcd-certfile", "", "PEM `file` of the client's certificate")
	f.StringVar(&s.caFile, "etcd-cafile", "", "PEM `file` of etcd's certificate authority")
	f.StringVar(&s.username, "etcd-username", "", "user `name` for etcd")
	f.StringVar(&s.password, "etcd-password", "", "`password` for etcd")
	f.Var(&s.iface, "iface", "`name or address` of the interface that peers are reached by; may be given more than once, the first that exists is used")
	f.Var(&s.ifaceRegex, "iface-regex", "`expression` that the interface's address or name matches; may be given more than once, after all --iface")
	f.StringVar(&s.canReach, "iface-can-reach", "", "use the interface of the route to this `address`")
	f.StringVar(&s.subnetFile, "subnet-file", "/run/flannel/subnet.env", "`file` that the node's subnet is written to")
	f.StringVar(&s.publicIP, "public-ip", "", "`address` that peers send to, where it is not the interface's")
	f.StringVar(&s.publicIPv6, "public-ipv6", "", "the same for IPv6")
	f.IntVar(&s.renewMargin, "subnet-lease-renew-margin", 60, "`minutes` before its end that the lease is renewed, 1 to 1439")
	f.BoolVar(&s.masquerade, "ip-masq", false, "masquerade what leaves the overlay")
	f.BoolVar(&s.predictable, "ip-masq-fully-random-disable", false, "masquerade without --random-fully")
	f.IntVar(&s.resync, "iptables-resync", 5, "`seconds` between two looks at the firewall's rules")
	f.BoolVar(&s.forward, "iptables-forward-rules", true, "accept forwarded overlay traffic")
	f.BoolVar(&s.blackhole, "ip-blackhole-route", false, "keep a route that drops packets to addresses of the node's subnet that no pod has")
	f.BoolVar(&s.harden, "harden", false, "with the backend vxlan, take tunnelled packets from the leases' nodes alone and none from pods, and send them as RFC 7348 recommends: source ports 49152-65535, no outer checksum over IPv4")
	f.StringVar(&s.healthzIP, "healthz-ip", "0.0.0.0", "`address` of the health server")
	f.IntVar(&s.healthzPort, "healthz-port", 0, "`port` of the health server, 0 for none")
	f.BoolVar(&s.kube, "kube-subnet-mgr", false, "keep leases in the Kubernetes API in place of etcd; the environment's NODE_NAME, or POD_NAME and POD_NAMESPACE, say which node this is")
	f.StringVar(&s.kubeURL, "kube-api-url", "", "`URL` of the Kubernetes API; without it and --kubeconfig-file, the pod's service account is used")
	f.StringVar(&s.kubeconfig, "kubeconfig-file", "", "kubeconfig `file` for the Kubernetes API")
	f.StringVar(&s.annotationPrefix, "kube-annotation-prefix", kube.DefaultPrefix, "`domain` of the nodes' annotations, or domain/name-")
	f.StringVar(&s.netConfPath, "net-config-path", "/etc/kube-flannel/net-conf.json", "`file` with the network's configuration, with --kube-subnet-mgr; read once, at the start")
	f.BoolVar(&s.announceNetwork, "set-node-network-unavailable", true, "set the node's condition NetworkUnavailable to False, with --kube-subnet-mgr")
	f.BoolVar(&s.version, "version", false, "print the version and exit")
	f.BoolVar(&s.cleanup, "cleanup", false, "remove the devices, firewall rules and subnet file that an agent left on this node, and exit")
	f.BoolVar(&s.dryRun, "dry-run", false, "print what the agent would change on this node as shell commands, change nothing, and exit: 0 for nothing, 1 for something, 2 for trouble")
	f.IntVar(&s.verbosity, "v", 0, "log `level`; above 0 includes debugging")
	f.StringVar(&s.logFormat, "log-format", "text", "`form` of the log on stderr: text (key=value) or json")
	// These mean something to flanneld only; a manifest may have them.
	for _, only := range []struct{ name, value, usage string }{
		{"vmodule", "", "accepted, without effect"},
		{"log_backtrace_at", "", "accepted, without effect"},
	} {
		f.String(only.name, only.value, only.usage)
	}
	return f
}

// parse reads the arguments (without the program's name), and for flags that
// they do not set, the environment. All that is wrong is reported at once.
func parse(args, environ []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := s.flagSet()
	f.SetOutput(io.Discard) // an error is reported once, by the caller
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		f.SetOutput(stderr)
		fmt.Fprintf(stderr, "Usage: overlabd [flags]\nEvery flag has an environment twin: --etcd-prefix is %sETCD_PREFIX.\n", envPrefix)
		f.PrintDefaults()
	}
	if err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: there are only flags", f.Arg(0))
	}
	if err := fromEnvironment(f, environ); err != nil {
		return nil, err
	}
	s.identify(environ)
	s.wireguardKey = wireguard.KeyFile
	for _, e := range environ {
		if path, ok := strings.CutPrefix(e, wireguard.KeyFileEnv+"="); ok && path != "" {
			s.wireguardKey = path
		}
	}
	return s, s.check()
}

func fromEnvironment(f *flag.FlagSet, environ []string) error {
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	values := map[string]string{}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, envPrefix) {
			values[name] = value
		}
	}
	var errs []error
	f.VisitAll(func(fl *flag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if value := values[name]; value != "" && !given[fl.Name] {
			if err := f.Set(fl.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", name, value, err))
			}
		}
	})
	return errors.Join(errs...)
}

// identify reads which node of a cluster this is from the variables that a
// manifest sets, which have no flags.
func (s *settings) identify(environ []string) {
	for _, e := range environ {
		switch name, value, _ := strings.Cut(e, "="); name {
		case "NODE_NAME":
			s.nodeName = value
		case "POD_NAME":
			s.podName = value
		case "POD_NAMESPACE":
			s.podNamespace = value
		}
	}
}

func (s *settings) check() error {
	var errs []error
	refuse := func(wrong bool, format string, a ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	refuse(s.renewMargin < 1 || s.renewMargin > 1439, "--subnet-lease-renew-margin=%d: it must be 1 to 1439 minutes", s.renewMargin)
	refuse(s.resync < 1, "--iptables-resync=%d: it must be at least a second", s.resync)
	refuse(s.healthzPort < 0 || s.healthzPort > 65535, "--healthz-port=%d is not a TCP port", s.healthzPort)
	refuse(s.subnetFile == "", "--subnet-file is empty; CNI plugins expect /run/flannel/subnet.env")
	refuse(len(s.endpointList()) == 0, "--etcd-endpoints is empty: name at least one, such as http://127.0.0.1:2379")
	for _, e := range s.endpointList() {
		refuse(!isEndpoint(e), "--etcd-endpoints: %s is not the URL of an etcd, such as http://127.0.0.1:2379", e)
	}
	for _, pair := range [][4]string{
		{"etcd-certfile", s.certFile, "etcd-keyfile", s.keyFile}, {"etcd-keyfile", s.keyFile, "etcd-certfile", s.certFile},
		{"etcd-username", s.username, "etcd-password", s.password}, {"etcd-password", s.password, "etcd-username", s.username},
	} {
		refuse(pair[1] != "" && pair[3] == "", "--%s is given without --%s: give both, or neither", pair[0], pair[2])
	}
	for _, e := range s.ifaceRegex {
		_, err := regexp.Compile(e)
		refuse(err != nil, "--iface-regex=%s: %v", e, err)
	}
	refuse(s.logFormat != "text" && s.logFormat != "json", "--log-format=%s is neither text nor json", s.logFormat)
	refuse(s.cleanup && s.dryRun, "--cleanup and --dry-run exclude each other")
	refuse(s.kube && s.netConfPath == "", "--net-config-path is empty: with --kube-subnet-mgr the network's configuration is a file")
	a, err := netip.ParseAddr(s.publicIP)
	refuse(s.publicIP != "" && (err != nil || !a.Is4()), "--public-ip=%s is not an IPv4 address", s.publicIP)
	a, err = netip.ParseAddr(s.publicIPv6)
	refuse(s.publicIPv6 != "" && (err != nil || !lease.IPv6.Has(a)), "--public-ipv6=%s is not an IPv6 address", s.publicIPv6)
	refuse(err == nil && a.IsLinkLocalUnicast(), "--public-ipv6=%s is link-local, and peers need a global address to send to", s.publicIPv6)
	_, err = netip.ParseAddr(s.canReach)
	refuse(s.canReach != "" && err != nil, "--iface-can-reach=%s is not an IP address", s.canReach)
	return errors.Join(errs...)
}

// isEndpoint reports whether etcd's client can make something of it: a URL, or
// a host and port.
func isEndpoint(s string) bool {
	if !strings.Contains(s, "://") {
		host, port, err := net.SplitHostPort(s)
		return err == nil && host != "" && port != ""
	}
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		return u.Host != ""
	case "unix", "unixs":
		return u.Host+u.Path != ""
	}
	return false
}

func (s *settings) underlay() underlay.Options {
	o := underlay.Options{Iface: s.iface, IfaceRegex: s.ifaceRegex}
	o.PublicIP, _ = netip.ParseAddr(s.publicIP) // checked; empty is none
	o.PublicIPv6, _ = netip.ParseAddr(s.publicIPv6)
	o.CanReach, _ = netip.ParseAddr(s.canReach)
	return o
}

// ownFiles are what agents keep besides subnet.env. A key whose place somebody
// has chosen is theirs.
func (s *settings) ownFiles() []string {
	files := []string{ipsecMemory()}
	if s.wireguardKey == wireguard.KeyFile {
		files = append(files, s.wireguardKey)
	}
	return files
}

func (s *settings) endpointList() []string {
	var out []string
	for e := range strings.SplitSeq(s.endpoints, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func (s *settings) margin() time.Duration { return time.Duration(s.renewMargin) * time.Minute }

func (s *settings) firewallResync() time.Duration { return time.Duration(s.resync) * time.Second }
