package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Keeper is what a Lab also is when it can keep an agent, or the store, ended
// after the calling process has gone. An empty node means the store, whose data
// stay.
type Keeper interface {
	End(ctx context.Context, node string) error
	Start(ctx context.Context, node string) error
}

// A Step is one change and what undoes it.
type Step struct {
	Do   Op `json:"do"`
	Undo Op `json:"undo"`
}

// An Op is one operation on a lab. Exactly one of Argv, Keep, Lease and
// WireGuard is set; none of them does nothing.
type Op struct {
	// Space is the node, pod or router where Argv runs, or whose agent is
	// meant; with Keep, empty for the store.
	Space string   `json:"space,omitempty"`
	Argv  []string `json:"argv,omitempty"`
	// Keep is "end" or "start".
	Keep string `json:"keep,omitempty"`
	// Lease is the key to write; Gone says that it is to be deleted.
	Lease *lease.Entry `json:"lease,omitempty"`
	Gone  bool         `json:"gone,omitempty"`
	// WireGuard is a change of a WireGuard device in Space.
	WireGuard *probe.WireGuardChange `json:"wireguard,omitempty"`
}

func (o Op) empty() bool {
	return len(o.Argv) == 0 && o.Keep == "" && o.Lease == nil && o.WireGuard == nil
}

// equal reports whether two operations do the same.
func (o Op) equal(p Op) bool { return o.String() == p.String() }

// String is what would have to be typed.
func (o Op) String() string {
	switch {
	case o.empty():
		return ""
	case o.Lease != nil && o.Gone:
		return "etcdctl del …/subnets/" + o.Lease.Key
	case o.Lease != nil:
		return fmt.Sprintf("etcdctl put …/subnets/%s %s", o.Lease.Key, quote(o.Lease.Value))
	case o.WireGuard != nil:
		return o.Space + "# " + o.WireGuard.String()
	case o.Keep != "" && o.Space == "":
		return o.Keep + " the store"
	case o.Keep != "":
		return o.Keep + " the agent of " + o.Space
	case len(o.Argv) == 3 && o.Argv[0] == "sh":
		return o.Space + "# " + o.Argv[2]
	}
	words := make([]string, len(o.Argv))
	for i, w := range o.Argv {
		words[i] = quote(w)
	}
	return o.Space + "# " + strings.Join(words, " ")
}

// quote quotes a word for a shell where it needs to be.
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$`;&|<>(){}*?[]#~!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// run does the operation.
func (o Op) run(ctx context.Context, lab topology.Lab) error {
	var err error
	switch {
	case o.empty():
		return nil
	case o.Lease != nil && o.Gone:
		err = lease.Delete(ctx, lab, o.Lease.Key)
	case o.Lease != nil:
		err = lease.Write(ctx, lab, *o.Lease)
	case o.WireGuard != nil:
		err = o.wireguard(ctx, lab)
	case o.Keep != "":
		err = o.keep(ctx, lab)
	default:
		_, err = output(ctx, lab, o.Space, o.Argv)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	return nil
}

func (o Op) keep(ctx context.Context, lab topology.Lab) error {
	k, can := lab.(Keeper)
	switch {
	case !can:
		return fmt.Errorf("a lab of the provider %s cannot keep it ended", lab.Plan().Provider)
	case o.Keep == "end":
		return k.End(ctx, o.Space)
	}
	return k.Start(ctx, o.Space)
}

func (o Op) wireguard(ctx context.Context, lab topology.Lab) error {
	ns, err := lab.Namespace(o.Space)
	if err != nil {
		return err
	}
	s, err := probe.Open(ctx, ns)
	if err != nil {
		return err
	}
	return errors.Join(s.SetWireGuard(ctx, *o.WireGuard), s.Close())
}

// output runs a command in a namespace of the lab and returns what it prints.
func output(ctx context.Context, lab topology.Lab, space string, argv []string) (string, error) {
	ns, err := lab.Namespace(space)
	if err != nil {
		return "", err
	}
	var out, said bytes.Buffer
	code, err := ns.Run(ctx, topology.Process{Argv: argv, Stdout: &out, Stderr: &said, Dir: "/"})
	switch {
	case err != nil:
		return "", err
	case code != 0:
		return "", fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}
