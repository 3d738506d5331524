package wireguard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/lease"
)

// control is what configures devices, the kernel's and those of processes
// alike. Its errors wrap os.ErrNotExist where there is no such device.
type control interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, cfg wgtypes.Config) error
	Close() error
}

func dialDevices() (control, error) { return wgctrl.New() }

var (
	_ backend.Verifier = (*WireGuard)(nil)
	_ backend.Loser    = (*WireGuard)(nil)
)

// Prepare implements backend.Runner: the device gets its key and its port, and
// what an earlier agent has told it of peers stays until the leases are known.
func (w *WireGuard) Prepare(ctx context.Context) (err error) {
	if w.wanted.key, err = privateKey(w.keyFile); err != nil {
		return err
	}
	if err := w.ensureProcess(ctx); err != nil {
		return err
	}
	return w.with(func(c control) error {
		have, err := c.Device(Device)
		if err != nil {
			return explain(err)
		}
		due := w.settingsChange(have)
		due.config.ReplacePeers = false
		return configure(c, due)
	})
}

// Follow implements backend.Runner.
func (w *WireGuard) Follow(ctx context.Context, own lease.Lease, all []lease.Lease) error {
	if err := w.ensureProcess(ctx); err != nil {
		return err
	}
	want, _ := w.peers(own, all) // Desired tells of the others
	return w.with(func(c control) error {
		due, err := w.look(c, want)
		if err != nil {
			return err
		}
		if err := configure(c, due); err != nil {
			return err
		}
		w.done(want)
		if err := w.greet(ctx, c, due.fresh, due.unsettled); err != nil {
			return err
		}
		w.disturbed = false
		return nil
	})
}

// Verify implements backend.Verifier: nothing tells of what others do to a
// device's peers.
func (w *WireGuard) Verify(_ context.Context, own lease.Lease, all []lease.Lease) error {
	want, _ := w.peers(own, all) // Desired tells of the others
	return w.with(func(c control) error {
		due, err := w.look(c, want)
		if err == nil && len(due.commands) > 0 {
			err = fmt.Errorf("%d changes of %s are due, the first: %s", len(due.commands), Device, due.commands[0])
		}
		if err == nil && w.disturbed {
			err = fmt.Errorf("%s was changed: its sessions may be lost", Device)
		}
		return err
	})
}

// Disturbed implements backend.Verifier: a device that goes down forgets its
// sessions, and its peers do not know.
func (w *WireGuard) Disturbed() { w.disturbed = true }

// Lost implements backend.Loser: nothing is ever lost of a kernel's device that
// the kernel does not tell of.
func (w *WireGuard) Lost() <-chan struct{} { return w.process.Lost() }

// ensureProcess finds or starts the process that is the device, if one is.
func (w *WireGuard) ensureProcess(ctx context.Context) error {
	if w.link.Kind == kernelKind {
		return nil
	}
	return w.process.Update(ctx, struct{}{}) // of the peers wgctrl tells it
}

// with calls fn with a connection that is then closed.
func (w *WireGuard) with(fn func(control) error) error {
	c, err := w.dial()
	if err != nil {
		return fmt.Errorf("reach the WireGuard devices: %w", err)
	}
	return errors.Join(fn(c), c.Close())
}

// look reads the device and finds what has to change.
func (w *WireGuard) look(c control, want map[wgtypes.Key]peer) (change, error) {
	have, err := c.Device(Device)
	if err != nil {
		return change{}, explain(err)
	}
	return w.difference(have, want), nil
}

// difference is what has to change of a device.
func (w *WireGuard) difference(have *wgtypes.Device, want map[wgtypes.Key]peer) change {
	due := w.settingsChange(have)
	w.peersChange(&due, want, have, time.Now())
	if w.disturbed {
		due.unsettled = slices.DeleteFunc(sortedKeys(want), func(k wgtypes.Key) bool { return slices.Contains(due.fresh, k) })
	}
	return due
}

func configure(c control, due change) error {
	if len(due.commands) == 0 {
		return nil
	}
	if err := c.ConfigureDevice(Device, due.config); err != nil {
		return fmt.Errorf("configure %s (%d changes, the first: %s): %w", Device, len(due.commands), due.commands[0], err)
	}
	return nil
}

// explain says more of a device that cannot be read.
func explain(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no WireGuard device %s at present: %w", Device, err)
	}
	return fmt.Errorf("read the WireGuard device %s: %w", Device, err)
}
