package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/lease"
)

var _ backend.Foreteller = (*WireGuard)(nil)

// Foresee implements backend.Foreteller. Where the node has no key yet it makes
// one up, which nobody keeps.
func (w *WireGuard) Foresee() (err error) {
	w.wanted.key, err = readKey(w.keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		w.wanted.key, err = wgtypes.GeneratePrivateKey()
	}
	return err
}

// Foretell implements backend.Foreteller.
func (w *WireGuard) Foretell(own lease.Lease, all []lease.Lease) ([]string, error) {
	var commands []string
	if _, err := os.Stat(w.keyFile); errors.Is(err, fs.ErrNotExist) {
		commands = append(commands,
			"# the node has no key yet: the lease will have the PublicKey of the one that is made now",
			fmt.Sprintf("mkdir -p %s; (umask 277; wg genkey > %s)", filepath.Dir(w.keyFile), w.keyFile))
	}
	want, _ := w.peers(own, all) // Desired tells of the others
	var due change
	err := w.with(func(c control) (err error) {
		due, err = w.look(c, want)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		due = w.difference(new(wgtypes.Device), want)
		if w.link.Kind == userKind {
			commands = append(commands, fmt.Sprintf("# this kernel has no WireGuard: the agent starts the process that is %s, and wg needs it", Device))
		}
		return nil
	})
	if len(due.commands) > 0 && w.psk != (wgtypes.Key{}) {
		commands = append(commands, "# preshared-key stands for a file with the PSK of the network's configuration")
	}
	return append(commands, due.commands...), err
}
