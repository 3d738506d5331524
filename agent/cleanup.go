package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/firewall"
	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/rtnl"
)

// ownDevice are the kinds and names of the devices of flannel's backends.
var ownDevice = regexp.MustCompile(`^vxlan flannel(-v6)?\.[0-9]+$|^(ipip|tun) flannel\.ipip$|^tun flannel0$|^(wireguard|tun) flannel-wg$`)

// Cleanup removes what agents have left on the node: the forwarders, the
// devices with all that hangs on them, what is theirs of IPsec, the underlay
// interface's routes to other nodes' pods, the blackholes of the node's subnets,
// the firewall's rules, the subnet file and the other files. The lease stays in
// the store, where it expires, or is the node's again when an agent returns.
func Cleanup(ctx context.Context, subnetFile string, others []string, log *slog.Logger) error {
	errs := []error{
		forwarder.EndAll(filepath.Dir(subnetFile), log), removeDevices(log), removeIPsec(log),
		handOver(subnetFile, datapath.BareRoutes{}, log), removeBlackholes(recordedKey(subnetFile), log), firewall.Remove(ctx),
	}
	for _, file := range append(others, subnetFile) {
		err := os.Remove(file)
		if err == nil {
			log.Info("removed", "file", file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeBlackholes removes those of the node's subnets.
func removeBlackholes(k lease.Key, log *slog.Logger) error {
	scope := datapath.Scope{IPv6: k.Subnet6.IsValid()}
	for _, f := range []lease.Family{lease.IPv4, lease.IPv6} {
		if p := k.Of(f); p.IsValid() {
			scope.Blackholes = append(scope.Blackholes, datapath.Destinations{Network: p, Len: p.Bits()})
		}
	}
	if len(scope.Blackholes) == 0 {
		return nil
	}
	return removeRoutes(scope, datapath.BareRoutes{}, log)
}

func removeDevices(log *slog.Logger) error {
	conn, err := rtnl.Dial()
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is left in it
	links, err := conn.Links()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	for _, l := range links {
		if ownDevice.MatchString(l.Kind + " " + l.Name) {
			log.Info("removed", "device", l.Name)
			b.DelLink(l.Index)
			b.Tolerate(unix.ENODEV) // it may have gone with another
		}
	}
	if err := conn.Do(&b); err != nil {
		return fmt.Errorf("remove devices: %w", err)
	}
	return nil
}
