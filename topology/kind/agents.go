package kind

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/overlab/overlab/deploy"
)

// RestartAgent deletes the pod of a node's agent, and returns when the next one
// is ready.
func (l *Lab) RestartAgent(ctx context.Context, node string) error {
	host := l.on[node]
	before, err := l.agentOn(ctx, host)
	if err != nil {
		return err
	}
	if before == 0 {
		return fmt.Errorf("node %s has no agent", node)
	}
	if _, err := kubectl(ctx, l.master(), nil, "-n", deploy.Namespace, "delete", "pod", "--field-selector=spec.nodeName="+host, "--grace-period=1", "--wait=false"); err != nil {
		return err
	}
	return l.awaitAgent(ctx, node, before)
}

// agentOn is the process of a node's agent, 0 where none runs.
func (l *Lab) agentOn(ctx context.Context, host string) (int, error) {
	pid, err := l.view.process(ctx, host)
	if err != nil {
		return 0, err
	}
	return programIn(pid, deploy.DaemonSet)
}

// noAgent is the label that keeps the agent off a node (deploy/overlab.yaml).
const noAgent = "overlab.dev/no-agent"

// HoldAgent ends a node's agent by a label that the DaemonSet keeps off, until
// release. What a harness that is killed holds, the next command releases.
func (l *Lab) HoldAgent(ctx context.Context, node string) (release func(context.Context) error, err error) {
	me, err := holder()
	if err != nil {
		return nil, err
	}
	host := l.on[node]
	if err := label(ctx, l.master(), host, noAgent, me); err != nil {
		return nil, err
	}
	release = func(ctx context.Context) error {
		if err := unlabel(ctx, l.master(), host, noAgent); err != nil {
			return err
		}
		return l.awaitAgent(ctx, node, 0)
	}
	for err == nil {
		agent := 0
		if agent, err = l.agentOn(ctx, host); err == nil && agent == 0 {
			return release, nil
		}
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(agentPoll):
		}
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), rolloutTimeout)
	defer cancel()
	_ = release(back) // the node has its agent again, or what went wrong first is told
	return nil, fmt.Errorf("end the agent of %s: %w", node, err)
}

// agentPoll is the pause between two looks at an agent.
const agentPoll = 50 * time.Millisecond

// awaitAgent waits until a node's agent, which is not the process of before, says
// that it is ready.
func (l *Lab) awaitAgent(ctx context.Context, node string, before int) error {
	ctx, cancel := context.WithTimeout(ctx, rolloutTimeout)
	defer cancel()
	ns, err := l.Namespace(node)
	if err != nil {
		return err
	}
	local := ns.(*namespace)
	defer local.Close()
	client := http.Client{Transport: &http.Transport{DialContext: local.Dial, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	for {
		now, err := l.agentOn(ctx, l.on[node])
		if err != nil {
			return err
		}
		if now != 0 && now != before {
			if ok, err := ready(ctx, &client); ok || err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent of %s does not get ready: %w", node, context.Cause(ctx))
		case <-time.After(agentPoll):
		}
	}
}

// ready asks the agent of the client's node. One that does not answer is not.
func ready(ctx context.Context, c *http.Client) (bool, error) {
	url := "http://" + netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), deploy.HealthPort).String() + "/readyz"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return false, nil
	}
	return resp.StatusCode == http.StatusOK, resp.Body.Close()
}
