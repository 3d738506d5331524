package wireguard

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	// courtesy is how long the one of two new peers waits for the other's
	// greeting, and courtesyPause the time between two looks for it.
	courtesy      = 100 * time.Millisecond
	courtesyPause = 10 * time.Millisecond
)

// greet begins sessions with peers that the device has just been told of.
//
// A peer that had a session with this node's device before that was made anew
// goes on using it, into the void, until 15 s of silence make it doubt; a new
// handshake ends that at once. And two nodes that both begin one at the same
// moment, as when pods of both have waited for the mesh, get none: each forgets
// its own over the other's, and only tries again after 5 s (REKEY_TIMEOUT). So
// the one with the lesser key begins. Those whose session this node alone has
// lost, or who know it at another port, it greets at once.
func (w *WireGuard) greet(ctx context.Context, c control, fresh, unsettled []wgtypes.Key) error {
	own := w.wanted.key.PublicKey()
	ours, theirs := unsettled, []wgtypes.Key(nil)
	for _, key := range fresh {
		if bytes.Compare(own[:], key[:]) < 0 {
			ours = append(ours, key)
		} else {
			theirs = append(theirs, key)
		}
	}
	if err := w.begin(c, ours); err != nil || len(theirs) == 0 {
		return err
	}
	silent, err := awaitHandshakes(ctx, c, theirs)
	if err != nil {
		return err
	}
	return w.begin(c, silent)
}

// begin begins handshakes: to turn keepalives on is to send one at once.
func (w *WireGuard) begin(c control, keys []wgtypes.Key) error {
	if len(keys) == 0 {
		return nil
	}
	var cfg wgtypes.Config
	off, on := time.Duration(0), time.Second
	for _, key := range keys {
		for _, interval := range []*time.Duration{&off, &on, &w.keepalive} {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: key, UpdateOnly: true, PersistentKeepaliveInterval: interval})
		}
	}
	if err := c.ConfigureDevice(Device, cfg); err != nil {
		return fmt.Errorf("begin %d handshakes of %s: %w", len(keys), Device, err)
	}
	return nil
}

// awaitHandshakes gives peers a moment, and returns those without a handshake.
func awaitHandshakes(ctx context.Context, c control, keys []wgtypes.Key) ([]wgtypes.Key, error) {
	ctx, cancel := context.WithTimeout(ctx, courtesy)
	defer cancel()
	tick := time.NewTicker(courtesyPause)
	defer tick.Stop()
	for {
		have, err := c.Device(Device)
		if err != nil {
			return nil, explain(err)
		}
		silent := withoutHandshake(have, keys)
		if len(silent) == 0 {
			return nil, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return silent, nil
		}
	}
}

func withoutHandshake(have *wgtypes.Device, keys []wgtypes.Key) []wgtypes.Key {
	var silent []wgtypes.Key
	for i := range have.Peers {
		if p := &have.Peers[i]; p.LastHandshakeTime.IsZero() && slices.Contains(keys, p.PublicKey) {
			silent = append(silent, p.PublicKey)
		}
	}
	return silent
}
