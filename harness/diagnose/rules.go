package diagnose

import "slices"

// A rule finds the causes of one sort. Of several causes the one of the higher
// rank comes first.
type rule struct {
	id   string
	rank rank
	find func(*Seen) []Cause
}

// Causes that a rule of another name finds, or none does.
const (
	idLeaseTwice = "lease-twice"
	idUnknown    = "unknown"
	// idDrop is a place where the kernel says that it drops packets, and idWalk
	// one where a walk ended, for a reason that no rule knows.
	idDrop = "drop"
	idWalk = "walk"
)

// The ranks: what a layer needs comes before it.
const (
	rankAgentChoice rank = 100 // what an agent chose decides all else
	rankLease       rank = 90  // every other node follows a lease
	rankLink        rank = 80  // a link takes addresses and routes with it
	rankDevice      rank = 75  // what a device was made with, its MAC, its MTU
	rankAddress     rank = 70  // an address takes routes with it
	rankCounter     rank = 66  // a counter that grew under the probes tells what happened to them
	rankSysctl      rank = 64
	rankWalk        rank = 62 // where a packet was seen to end, and nothing explains it
	rankEntry       rank = 60 // neighbours, forwarding entries, routes
	rankPolicy      rank = 55
	rankFilter      rank = 50
	rankGuess       rank = 45 // where one seems to have ended
	rankStore       rank = 30 // nothing is lost until something changes
	rankFile        rank = 20 // for pods yet to come
	rankAgent       rank = 10 // an agent that does nothing does no harm yet
)

// rules are all of them.
func rules() []rule {
	var all []rule
	for _, some := range [][]rule{entryRules(), linkRules(), leaseRules(), settingRules(), filterRules(), agentRules()} {
		all = append(all, some...)
	}
	return all
}

// IDs are the names of all sorts of causes.
func IDs() []string {
	var ids []string
	for _, r := range rules() {
		ids = append(ids, r.id)
	}
	for _, m := range meanings() {
		ids = append(ids, m.id)
	}
	ids = append(ids, idLeaseTwice, idUnknown, idDrop, idWalk)
	slices.Sort(ids)
	return slices.Compact(ids)
}
