package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// machineOf is the last node that can be taken from a lab whose store must
// stay, nil where there is none, and the others with pods.
func machineOf(plan *topology.Plan) (node *topology.Node, others []*topology.Node) {
	nodes := nodesWithPods(plan)
	for _, n := range nodes {
		if n.Name != plan.Store.Node && !n.Agent.ByHand {
			node = n
		}
	}
	for _, n := range nodes {
		if n != node {
			others = append(others, n)
		}
	}
	return node, others
}

// machineRestarted restarts a node's machine under traffic between the others,
// and returns in words what went by. What was on it is lost; it must come back,
// and nobody else may notice.
func machineRestarted(ctx context.Context, env *suite.Env) (string, error) {
	node, others := machineOf(env.Plan())
	if node == nil || len(others) == 0 {
		return "", nil
	}
	flows := new(traffic)
	if len(others) > 1 {
		var err error
		if flows, err = startTrafficOf(ctx, env, others, 100); err != nil {
			return "", err
		}
	}
	began := env.Now(ctx)
	if err := restartMachine(ctx, env, node.Name); err != nil {
		return "", err
	}
	back := env.Now(ctx).Sub(began)
	for _, other := range others {
		if err := errors.Join(reaches(ctx, env, node, other), reaches(ctx, env, other, node)); err != nil {
			env.Fail(node.Name, "traffic with "+other.Name+" again after its machine's restart", err.Error())
		}
	}
	told := fmt.Sprintf("; %s restarted, and with its pods back after %v", node.Name, back.Round(100*time.Millisecond))
	if len(others) < 2 {
		return told, nil
	}
	passed, err := flows.end(ctx, env)
	return told + ", " + passed + " between the others", err
}

// cordon is a node that takes no new pods for a while, and the traffic of all
// nodes meanwhile.
type cordon struct {
	node   string
	before map[string][]string
	flows  *traffic
	lift   func(context.Context) error
}

// cordoned cordons a node; nil where the lab cannot.
func cordoned(ctx context.Context, env *suite.Env) (*cordon, error) {
	can, err := able[suite.NodeCordoner](ctx, env, "cordon nodes")
	node, others := machineOf(env.Plan())
	if err != nil || !can || node == nil || len(others) == 0 {
		return nil, err
	}
	c := &cordon{node: node.Name, before: map[string][]string{}}
	for _, name := range nodeNames(env.Plan()) {
		st, err := stateOf(ctx, env, name)
		if err != nil {
			return nil, err
		}
		c.before[name] = entries(env.Plan(), st)
	}
	if c.flows, err = startTraffic(ctx, env, 100); err != nil {
		return nil, err
	}
	c.lift, err = cordonNode(ctx, env, node.Name)
	return c, err
}

// end uncordons the node, and judges that nobody took it for one that has left.
// It returns in words what went by, nothing for none.
func (c *cordon) end(ctx context.Context, env *suite.Env) (string, error) {
	if c == nil {
		return "", nil
	}
	if err := c.flows.more(ctx, settle); err != nil {
		return "", err
	}
	_, err := follow(ctx, env, "the entries of before "+c.node+" was cordoned", func(n *topology.Node, st *probe.State) string {
		return changed(env.Plan(), c.before[n.Name], st)
	})
	if err != nil {
		return "", err
	}
	if err := c.lift(ctx); err != nil {
		return "", err
	}
	passed, err := c.flows.end(ctx, env)
	return fmt.Sprintf("; %s cordoned and uncordoned, %s", c.node, passed), err
}
