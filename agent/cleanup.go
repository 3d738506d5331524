package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"regexp"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/firewall"
	"github.com/overlab/overlab/internal/rtnl"
)

// ownDevice are the kinds and names of the devices of flannel's backends.
var ownDevice = regexp.MustCompile(`^vxlan flannel\.[0-9]+$|^ipip flannel\.ipip$`)

// Cleanup removes what agents have left on the node: the devices with all that
// hangs on them, the underlay interface's routes to other nodes' pods, the
// blackhole of the node's subnet, the firewall's rules and the subnet file. The
// lease stays in the store, where it expires, or is the node's again when an
// agent returns.
func Cleanup(ctx context.Context, subnetFile string, log *slog.Logger) error {
	errs := []error{
		removeDevices(log), handOver(subnetFile, datapath.BareRoutes{}, log), removeBlackhole(recordedSubnet(subnetFile), log),
		firewall.Remove(ctx),
	}
	err := os.Remove(subnetFile)
	if err == nil {
		log.Info("removed", "file", subnetFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func removeBlackhole(subnet netip.Prefix, log *slog.Logger) error {
	if !subnet.IsValid() {
		return nil
	}
	return removeRoutes(datapath.Scope{Blackholes: datapath.Blackholes{Network: subnet, Len: subnet.Bits()}}, log)
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
		}
	}
	if err := conn.Do(&b); err != nil {
		return fmt.Errorf("remove devices: %w", err)
	}
	return nil
}
