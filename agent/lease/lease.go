// Package lease is what the nodes of an overlay tell each other: who has which
// subnet, and how it is reached. The formats are flannel's, key by key and
// byte by byte, so that one store can serve both.
package lease

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// TTL is how long a lease lives that is not renewed, as in flannel
// (pkg/subnet/etcd/local_manager.go).
const TTL = 24 * time.Hour

// Attrs is the value of a lease, in flannel's JSON (pkg/lease/lease.go).
type Attrs struct {
	// PublicIP is where the node's peers send encapsulated packets; 0.0.0.0 in
	// the JSON, and unset here, of a node with IPv6 alone.
	PublicIP netip.Addr
	// PublicIPv6 is the same for packets over IPv6; null where there is none.
	PublicIPv6 netip.Addr
	// BackendType is the backend's lower-case name; empty in a reservation.
	BackendType string
	// BackendData and BackendV6Data are the backend's own, one for each family.
	BackendData, BackendV6Data json.RawMessage
}

// attrsJSON has the order and the omissions of flannel's type.
type attrsJSON struct {
	PublicIP      string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
}

// MarshalJSON writes flannel's form.
func (a Attrs) MarshalJSON() ([]byte, error) {
	out := attrsJSON{
		PublicIP: "0.0.0.0", BackendType: a.BackendType, BackendData: a.BackendData, BackendV6Data: a.BackendV6Data,
	}
	if a.PublicIP.IsValid() {
		out.PublicIP = a.PublicIP.String()
	}
	if a.PublicIPv6.IsValid() {
		s := a.PublicIPv6.String()
		out.PublicIPv6 = &s
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads flannel's form; unknown fields are let be, and so is a
// missing PublicIPv6.
func (a *Attrs) UnmarshalJSON(b []byte) error {
	var in attrsJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	out := Attrs{BackendType: in.BackendType, BackendData: in.BackendData, BackendV6Data: in.BackendV6Data}
	var errs []error
	if in.PublicIP != "" {
		var err error
		out.PublicIP, err = netip.ParseAddr(in.PublicIP)
		if err != nil || !out.PublicIP.Is4() {
			errs = append(errs, fmt.Errorf("PublicIP %q is not an IPv4 address", in.PublicIP))
		} else if out.PublicIP.IsUnspecified() {
			out.PublicIP = netip.Addr{} // how flannel writes that there is none
		}
	}
	if in.PublicIPv6 != nil && *in.PublicIPv6 != "" {
		var err error
		out.PublicIPv6, err = netip.ParseAddr(*in.PublicIPv6)
		if err != nil || !out.PublicIPv6.Is6() || out.PublicIPv6.Zone() != "" {
			errs = append(errs, fmt.Errorf("PublicIPv6 %q is not an IPv6 address", *in.PublicIPv6))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	*a = out
	return nil
}

// Shown returns what is published where others than the node's own addresses
// are to be; those that are unset leave the node's.
func (a Attrs) Shown(v4, v6 netip.Addr) Attrs {
	if v4.IsValid() && a.PublicIP.IsValid() {
		a.PublicIP = v4
	}
	if v6.IsValid() && a.PublicIPv6.IsValid() {
		a.PublicIPv6 = v6
	}
	return a
}

// Equal reports whether two values say the same, whatever their spelling.
func (a Attrs) Equal(b Attrs) bool {
	return a.PublicIP == b.PublicIP && a.PublicIPv6 == b.PublicIPv6 && a.BackendType == b.BackendType &&
		sameJSON(a.BackendData, b.BackendData) && sameJSON(a.BackendV6Data, b.BackendV6Data)
}

func sameJSON(a, b json.RawMessage) bool {
	if string(a) == string(b) {
		return true
	}
	canonical := func(raw json.RawMessage) string {
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber() // a number may be more than a float64 holds
		if d.Decode(&v) != nil || d.More() {
			return "invalid " + string(raw)
		}
		out, _ := json.Marshal(v) // what was unmarshalled can be marshalled
		return string(out)
	}
	return canonical(a) == canonical(b)
}

// Lease is one node's subnet.
type Lease struct {
	Key   Key
	Attrs Attrs
	// ID is the store's own lease that lets the key expire; 0 means that it
	// never expires: a reservation, or one that was claimed.
	ID int64
	// Revision is the store's revision in which the value was last written.
	Revision int64
}

// Snapshot is the complete set of leases at one moment.
type Snapshot struct {
	// Leases are sorted by key. The own lease and reservations are included.
	Leases []Lease
	// Unreadable are the keys whose present value cannot be read; Leases holds
	// their last readable value, where there was one.
	Unreadable []Key
	// Revision is the store's revision that the snapshot shows; 0 says that
	// nothing could be read yet.
	Revision int64
	// Err is nil while the store's changes arrive, and says otherwise why not;
	// Leases is then the last set that was seen.
	Err error
}

// Find returns the lease of that key.
func (s Snapshot) Find(k Key) (Lease, bool) {
	for _, l := range s.Leases {
		if l.Key == k {
			return l, true
		}
	}
	return Lease{}, false
}

// Claim is what a node asks a Store for.
type Claim struct {
	Config *Config
	Attrs  Attrs
	// Previous are the subnets that the node had before, as far as it remembers.
	Previous Key
	// Expires says that the node had it by a lease that expires. A key without
	// one is then not a reservation: somebody has written over it.
	Expires bool
}

// Grant is a claim that was granted.
type Grant struct {
	Lease Lease
	// TTL is how long it lives unless it is renewed; 0 is for ever.
	TTL time.Duration
	// Replaced is the value that the key had before, where it was another
	// node's or an earlier one of this node.
	Replaced *Attrs
	// Bound says that the store ties the subnet to this node, so that no other
	// can come to have it: whatever else the key's value says is a mistake.
	Bound bool
}

// A Store is where leases live.
type Store interface {
	// NetConf returns the network's configuration, flannel's net-conf.json;
	// ErrNoConfig where there is none yet.
	NetConf(ctx context.Context) ([]byte, error)
	// Acquire publishes the node's attributes under a subnet of its own: the
	// one that it holds already, or one reserved for its Identity, or its
	// previous one, or a free one. It tries again when another node wins the
	// same subnet.
	Acquire(ctx context.Context, c Claim) (Grant, error)
	// Renew makes the lease live for another while and says how long; 0 is for
	// ever. ErrExpired where the store has let it go.
	Renew(ctx context.Context, l Lease) (time.Duration, error)
	// Watch calls fn with every new Snapshot until ctx ends: the first as soon
	// as it can. It survives every failure of the store, telling of it in Err.
	Watch(ctx context.Context, fn func(Snapshot))
	// Close lets go of the store and leaves the leases.
	Close() error
}

var (
	// ErrNoConfig says that the store has no network configuration yet.
	ErrNoConfig = errors.New("the store has no network configuration")
	// ErrExpired says that the lease is no longer known to the store.
	ErrExpired = errors.New("the lease has expired")
)
