package wireguard

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/lease"
)

// peer is what a device must know of another node, besides what is the same
// for all.
type peer struct {
	// endpoint is where it was first to be found; it may have moved since.
	endpoint netip.AddrPort
	// subnet is where its packets come from, and which go to it.
	subnet netip.Prefix
}

// peers are the nodes that the device must know, by their public keys, and
// what is wrong with the others' leases.
func (w *WireGuard) peers(own lease.Lease, all []lease.Lease) (map[wgtypes.Key]peer, []string) {
	// A device has one peer of a key, and none of its own.
	holders := map[wgtypes.Key]netip.Prefix{w.wanted.key.PublicKey(): own.Key.Subnet}
	known := map[lease.Key]leaseData{}
	keys := map[lease.Key]wgtypes.Key{}
	found, problems := backend.Peers(w.config, Type, w.underlay, own, all, func(l lease.Lease) (err error) {
		known[l.Key], keys[l.Key], err = readData(l.Attrs.BackendData)
		return err
	}, func(l lease.Lease) error {
		key := keys[l.Key]
		if holder, taken := holders[key]; taken {
			return fmt.Errorf("PublicKey %s is also that of %s: the nodes were cloned, or one has the other's key file", key, holder)
		}
		holders[key] = l.Key.Subnet
		return nil
	})
	peers := map[wgtypes.Key]peer{}
	for _, l := range found {
		port := known[l.Key].Port
		if port == 0 {
			port = uint16(w.wanted.port)
		}
		peers[keys[l.Key]] = peer{endpoint: netip.AddrPortFrom(l.Attrs.PublicIP, port), subnet: l.Key.Subnet}
	}
	return peers, problems
}

// readData reads what another node publishes of itself.
func readData(raw json.RawMessage) (leaseData, wgtypes.Key, error) {
	var data leaseData
	if err := json.Unmarshal(raw, &data); err != nil {
		return data, wgtypes.Key{}, fmt.Errorf("BackendData %q: %w", raw, err)
	}
	key, err := wgtypes.ParseKey(data.PublicKey)
	if err != nil || key == (wgtypes.Key{}) {
		return data, key, fmt.Errorf("PublicKey %q is not 32 bytes in base64", data.PublicKey)
	}
	return data, key, nil
}
