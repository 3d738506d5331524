package walk

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/probe"
)

// obstacle is something in a firewall that drops packets.
type obstacle struct {
	probe.Obstacle
	// counted is how many more packets it dropped when one more was sent.
	counted uint64
}

func (o obstacle) cause(space string) string {
	if o.counted > 0 {
		return fmt.Sprintf("the firewall of %s drops it: %s, whose counter rises with each packet", space, o.What)
	}
	return fmt.Sprintf("the firewall of %s is in the way: %s", space, o.What)
}

// netfilter reads a namespace's firewall, sends another packet, and reads it
// again: what counts it comes first, then rules that drop, then policies.
func (w *run) netfilter(ctx context.Context, space string) ([]obstacle, error) {
	before, err := w.obstacles(ctx, space)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	if _, err = w.sendOne(ctx, uuid.New(), 1, 50*time.Millisecond); err != nil {
		return nil, err
	}
	after, err := w.obstacles(ctx, space)
	if err != nil {
		return nil, err
	}
	for i := range after {
		j := slices.IndexFunc(before, func(o obstacle) bool { return o.What == after[i].What })
		if j >= 0 && after[i].Packets > before[j].Packets {
			after[i].counted = after[i].Packets - before[j].Packets
		}
	}
	slices.SortStableFunc(after, func(a, b obstacle) int { return int(b.counted) - int(a.counted) })
	return after, nil
}

// obstacles lists the rules and policies of a namespace that drop.
func (w *run) obstacles(ctx context.Context, space string) ([]obstacle, error) {
	list, err := w.sessions[space].Obstacles(ctx)
	out := make([]obstacle, len(list))
	for i, o := range list {
		out[i].Obstacle = o
	}
	return out, err
}
