package faults

import (
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// twins begins the names of faults of IPv6, as DS/FDB-01.
const twins = "DS/"

// overIPv6 makes of the faults that have a twin the same over IPv6: what breaks
// flannel.1 there breaks flannel-v6.1, and IPv4 stays whole.
func overIPv6(all []Fault) []Fault {
	var out []Fault
	for _, f := range all {
		if !f.Twin {
			continue
		}
		f.ID, f.Twin, f.IPv6 = twins+f.ID, false, true
		f.Title = strings.NewReplacer("flannel device", "IPv6 flannel device", "/32", "/128").Replace(f.Title)
		f.Breaks += ", over IPv6"
		f.Checks = twinChecks(f.Checks)
		f.Needs = append([]suite.Feature{suite.IPv6}, slices.DeleteFunc(slices.Clone(f.Needs), func(n suite.Feature) bool { return n == suite.IPv4 })...)
		out = append(out, f)
	}
	return out
}

// twinChecks are the checks that judge IPv6 in the place of those that judge
// IPv4, where there are any.
func twinChecks(ids []string) []string {
	var out []string
	for _, id := range ids {
		family, _, _ := strings.Cut(id, "-")
		switch {
		case slices.Contains([]string{"CP-04", "CP-05", "CP-06", "MTU-04", "MTU-05", "WF-05", "WF-07", "WF-08", "WF-09", "NT-03", "NT-04"}, id):
		case slices.Contains([]string{"NM", "TTL", "DP", "CP", "WF", "MTU", "BE", "NT", "RS"}, family):
			out = append(out, "DS-01/"+id)
		}
	}
	return out
}
