// Package extension is flannel's extension backend: shell commands of the
// network's configuration do what a backend does, so that one can be tried out
// in a few lines.
//
// Keys, environment and input are flannel's (Documentation/extension.md). Two
// things differ. The commands are run by "sh -c", as they were in flannel until
// it began to split them at white space, so that pipes and substitutions work.
// And a command that fails is tried again until it succeeds, and the node is
// not ready before.
package extension

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

// Type is the backend's name in net-conf.json and in leases.
const Type = "extension"

// config is the Backend object (flannel, pkg/backend/extension/extension.go);
// MTU is an addition: what the commands take from a packet's room, only their
// author knows.
type config struct {
	MTU                 int
	PreStartupCommand   string
	PostStartupCommand  string
	SubnetAddCommand    string
	SubnetRemoveCommand string
}

// Extension is one node's part of an overlay that commands make.
type Extension struct {
	config                     *lease.Config
	underlay                   backend.Underlay
	mtu                        int
	before, after, add, remove command
	// data is what the first command printed, as JSON text.
	data json.RawMessage
	// started is the own lease for which the node was started up.
	started lease.Key
	// served are the leases for which the add command has succeeded.
	served map[lease.Key]lease.Attrs
}

var _ backend.Runner = (*Extension)(nil)

// New checks the configuration.
func New(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
	var cfg config
	if err := json.Unmarshal(c.Backend, &cfg); err != nil {
		return nil, fmt.Errorf("read the extension backend's configuration: %w", err)
	}
	if cfg.MTU < 0 || cfg.MTU > 0 && cfg.MTU < 68 { // RFC 791
		return nil, fmt.Errorf("MTU %d is fewer than IPv4's 68 bytes", cfg.MTU)
	}
	e := &Extension{
		config: c, underlay: u, mtu: u.MTU, served: map[lease.Key]lease.Attrs{},
		before: command{"PreStartupCommand", cfg.PreStartupCommand}, after: command{"PostStartupCommand", cfg.PostStartupCommand},
		add: command{"SubnetAddCommand", cfg.SubnetAddCommand}, remove: command{"SubnetRemoveCommand", cfg.SubnetRemoveCommand},
	}
	if cfg.MTU > 0 {
		e.mtu = min(cfg.MTU, u.MTU)
	}
	return e, nil
}

// Type implements backend.Backend.
func (e *Extension) Type() string { return Type }

// MTU implements backend.Backend: that of the interface, or the configured one
// if that is less.
func (e *Extension) MTU() int { return e.mtu }

// Scope implements backend.Backend: what the commands make is theirs.
func (e *Extension) Scope() datapath.Scope { return datapath.Scope{} }

// Adopt implements backend.Backend; what has to outlive the agent, the commands
// see to.
func (e *Extension) Adopt(datapath.State) {}

// Data implements backend.Backend: what PreStartupCommand printed, as a JSON
// string; none without such a command.
func (e *Extension) Data() json.RawMessage { return e.data }

// Device implements backend.Backend; there is none.
func (e *Extension) Device() datapath.State { return datapath.NewState() }

// Desired implements backend.Backend; Follow does the work.
func (e *Extension) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	_, problems := e.peers(own, all)
	return datapath.NewState(), problems
}

// Prepare implements backend.Runner.
func (e *Extension) Prepare(ctx context.Context) error {
	printed, err := e.before.run(ctx, "", nil, "")
	if err == nil && e.before.text != "" {
		e.data, err = json.Marshal(printed)
	}
	return err
}

// Follow implements backend.Runner. A lease whose content changes is removed as
// it was and added as it is, so that nothing of the old one stays.
func (e *Extension) Follow(ctx context.Context, own lease.Lease, all []lease.Lease) error {
	if e.started != own.Key {
		env := append([]string{"NETWORK=" + e.config.Network.String()}, environment(own.Key, own.Attrs)...)
		if _, err := e.after.run(ctx, own.Key.String(), env, ""); err != nil {
			return err
		}
		e.started = own.Key
	}
	peers, _ := e.peers(own, all) // Desired tells of the others
	errs := e.removeOld(ctx, peers)
	for _, l := range all { // in the order of their keys
		attrs, ok := peers[l.Key]
		_, served := e.served[l.Key]
		if !ok || served || ctx.Err() != nil {
			continue
		}
		if err := e.call(ctx, e.add, l.Key, attrs); err != nil {
			errs = append(errs, err)
			continue
		}
		e.served[l.Key] = attrs
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// peers are the leases that commands are to be run for, and what is wrong with
// the others. A command gets all that a lease says, so every family of the
// network must be sound.
func (e *Extension) peers(own lease.Lease, all []lease.Lease) (map[lease.Key]lease.Attrs, []string) {
	var problems []string
	for _, f := range e.config.Families() {
		var wrong []string
		all, wrong = backend.PeersOf(f, e.config, Type, e.underlay, own, all, func(l lease.Lease) error {
			_, err := text(l.Attrs)
			return err
		}, nil)
		problems = append(problems, wrong...)
	}
	peers := map[lease.Key]lease.Attrs{}
	for _, l := range all {
		peers[l.Key] = l.Attrs
	}
	return peers, problems
}

// removeOld runs the remove command for what is served and is no longer so.
func (e *Extension) removeOld(ctx context.Context, peers map[lease.Key]lease.Attrs) []error {
	var errs []error
	for key, attrs := range e.served {
		if now, ok := peers[key]; ok && now.Equal(attrs) || ctx.Err() != nil {
			continue
		}
		if err := e.call(ctx, e.remove, key, attrs); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(e.served, key)
	}
	return errs
}

// call runs a command for a peer.
func (e *Extension) call(ctx context.Context, c command, key lease.Key, attrs lease.Attrs) error {
	stdin, err := text(attrs)
	if err == nil {
		_, err = c.run(ctx, key.String(), environment(key, attrs), stdin)
	}
	return err
}

// text is what the peer's PreStartupCommand printed.
func text(attrs lease.Attrs) (string, error) {
	var s string
	if len(attrs.BackendData) == 0 {
		return "", nil
	}
	if err := json.Unmarshal(attrs.BackendData, &s); err != nil {
		return "", fmt.Errorf("BackendData %s is not a JSON string: %w", attrs.BackendData, err)
	}
	return s, nil
}

// environment are flannel's variables of a lease; those of a family that it
// does not have are empty.
func environment(key lease.Key, attrs lease.Attrs) []string {
	word := func(valid bool, s string) string {
		if !valid {
			return ""
		}
		return s
	}
	return []string{
		"SUBNET=" + word(key.Subnet.IsValid(), key.Subnet.String()),
		"IPV6SUBNET=" + word(key.Subnet6.IsValid(), key.Subnet6.String()),
		"PUBLIC_IP=" + word(attrs.PublicIP.IsValid(), attrs.PublicIP.String()),
		"PUBLIC_IPV6=" + word(attrs.PublicIPv6.IsValid(), attrs.PublicIPv6.String()),
	}
}
