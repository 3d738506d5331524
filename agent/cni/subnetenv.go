package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// subnetEnv is the file in which the agent tells the plugin the node's subnet.
type subnetEnv struct {
	// networks are the overlay's prefixes, IPv4 before IPv6.
	networks []netip.Prefix
	// subnet and subnet6 are the node's own, with the gateway's host part.
	subnet, subnet6 netip.Prefix
	mtu             int
	ipMasq          bool
}

func (e *subnetEnv) subnets() []netip.Prefix {
	var s []netip.Prefix
	for _, p := range []netip.Prefix{e.subnet, e.subnet6} {
		if p.IsValid() {
			s = append(s, p)
		}
	}
	return s
}

// subnetPoll is the pause between two looks for the file.
const subnetPoll = 20 * time.Millisecond

// awaitSubnetEnv waits a while for the file to be there.
func awaitSubnetEnv(ctx context.Context, path string, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		_, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(subnetPoll):
		}
	}
}

// readSubnetEnv reads flannel's subnet.env: KEY=value lines. The error names
// every key that is missing or wrong.
func readSubnetEnv(path string) (*subnetEnv, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			v[key] = value
		}
	}
	e := &subnetEnv{ipMasq: v["FLANNEL_IPMASQ"] == "true"}
	var errs []error
	prefixes := func(key string) []netip.Prefix {
		var ps []netip.Prefix
		for s := range strings.SplitSeq(v[key], ",") {
			if s == "" {
				continue
			}
			p, err := netip.ParsePrefix(s)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", key, err))
			}
			ps = append(ps, p)
		}
		return ps
	}
	subnet := func(key string) (p netip.Prefix) {
		if ps := prefixes(key); len(ps) > 0 {
			p = ps[0]
		}
		return p
	}
	e.networks = append(prefixes("FLANNEL_NETWORK"), prefixes("FLANNEL_IPV6_NETWORK")...)
	e.subnet, e.subnet6 = subnet("FLANNEL_SUBNET"), subnet("FLANNEL_IPV6_SUBNET")
	if len(e.networks) == 0 {
		errs = append(errs, errors.New("FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK are missing"))
	}
	if v["FLANNEL_SUBNET"] == "" && v["FLANNEL_IPV6_SUBNET"] == "" {
		errs = append(errs, errors.New("FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET are missing"))
	}
	if _, ok := v["FLANNEL_IPMASQ"]; !ok {
		errs = append(errs, errors.New("FLANNEL_IPMASQ is missing"))
	}
	if e.mtu, err = strconv.Atoi(v["FLANNEL_MTU"]); err != nil {
		errs = append(errs, fmt.Errorf("FLANNEL_MTU is %q, not a number of bytes", v["FLANNEL_MTU"]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}
