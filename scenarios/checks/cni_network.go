package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlab/overlab/harness/cni"
	"github.com/overlab/overlab/harness/suite"
)

// plugins are what a node has of CNI: a network configuration list, and the
// folders of its executables.
type plugins struct {
	List json.RawMessage `json:"list"`
	Path []string        `json:"path"`
}

// pluginsOf asks the lab for a node's.
func pluginsOf(ctx context.Context, env *suite.Env, node string) (plugins, error) {
	return suite.Observe(ctx, env, "the CNI plugins of "+node, func() (plugins, error) {
		host, ok := env.Lab().(suite.PluginHost)
		if !ok {
			return plugins{}, suite.NotApplicablef("this lab does not say which CNI plugins its nodes have")
		}
		list, path, err := host.Plugins(node)
		return plugins{list, path}, err
	})
}

// network is a network configuration list, opened on a node. What its plugins
// are asked and what they answer is observed.
type network struct {
	env           *suite.Env
	name, version string
	runtime       *cni.Runtime // nil in a replay
}

// openNetwork opens a list for a node's plugins, until the check ends.
func openNetwork(ctx context.Context, env *suite.Env, node string, list []byte, path []string) (*network, error) {
	var head struct {
		Name       string `json:"name"`
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(list, &head); err != nil {
		return nil, fmt.Errorf("read the CNI configuration: %w", err)
	}
	n := &network{env: env, name: head.Name, version: head.CNIVersion}
	err := suite.Act(ctx, env, "the network "+head.Name+" is opened", func() error {
		ns, err := env.Lab().Namespace(node)
		if err != nil {
			return err
		}
		if n.runtime, err = cni.Open(ns, list, path); err != nil {
			return err
		}
		env.Restore("the folder of CNI results", func(context.Context) error { return n.runtime.Close() })
		return nil
	})
	return n, err
}

// said is what a plugin that was run has answered.
type said struct {
	Result *types100.Result `json:"result,omitempty"`
	Error  string           `json:"error,omitempty"`
	Code   uint             `json:"code,omitempty"`
}

// pluginError is a plugin's error, with its code (CNI specification, section 5).
type pluginError struct {
	text string
	code uint
}

func (e *pluginError) Error() string { return e.text }

// codeOf is the code of a plugin's error, 0 where it has none.
func codeOf(err error) uint {
	var failed *pluginError
	if errors.As(err, &failed) {
		return failed.code
	}
	return 0
}

// run runs plugins.
func (n *network) run(ctx context.Context, verb string, do func() (*types100.Result, error)) (*types100.Result, error) {
	s, err := suite.Observe(ctx, n.env, n.name+": "+verb, func() (said, error) {
		result, err := do()
		if err != nil {
			return said{Error: err.Error(), Code: cni.Code(err)}, nil
		}
		return said{Result: result}, nil
	})
	if err == nil && s.Error != "" {
		err = &pluginError{s.Error, s.Code}
	}
	return s.Result, err
}

// ask runs plugins for what has no result.
func (n *network) ask(ctx context.Context, verb string, do func() error) error {
	_, err := n.run(ctx, verb, func() (*types100.Result, error) { return nil, do() })
	return err
}

func (n *network) add(ctx context.Context, c *cni.Container) (*types100.Result, error) {
	return n.run(ctx, "ADD "+c.ID, func() (*types100.Result, error) { return n.runtime.Add(ctx, c) })
}

func (n *network) del(ctx context.Context, c *cni.Container) error {
	return n.ask(ctx, "DEL "+c.ID, func() error { return n.runtime.Del(ctx, c) })
}

func (n *network) check(ctx context.Context, c *cni.Container) error {
	return n.ask(ctx, "CHECK "+c.ID, func() error { return n.runtime.Check(ctx, c) })
}

func (n *network) status(ctx context.Context) error {
	return n.ask(ctx, "STATUS", func() error { return n.runtime.Status(ctx) })
}

func (n *network) gc(ctx context.Context, valid ...*cni.Container) error {
	return n.ask(ctx, "GC", func() error { return n.runtime.GC(ctx, valid...) })
}

// newContainer makes a container; a replay knows its name alone.
func newContainer(ctx context.Context, env *suite.Env) (*cni.Container, error) {
	var made *cni.Container
	known, err := suite.Observe(ctx, env, "a container", func() (cni.Container, error) {
		var err error
		if made, err = cni.NewContainer(); err != nil {
			return cni.Container{}, err
		}
		return cni.Container{ID: made.ID, IfName: made.IfName, Path: made.Path}, nil
	})
	if made == nil {
		made = &known
	}
	return made, err
}

// abandon lets a container's namespace go.
func abandon(ctx context.Context, env *suite.Env, c *cni.Container) error {
	return suite.Act(ctx, env, c.ID+" is gone", c.Close)
}
