package topology

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
)

var (
	// dnsLabel is RFC 1123's label, in lower case as Kubernetes wants it.
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	// plainIfname leaves out what the kernel refuses in an interface's name
	// (dev_valid_name: slash, colon, space) and what shells trip over.
	plainIfname = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	plainPrefix = regexp.MustCompile(`^(/[A-Za-z0-9_.-]+)+$`)
)

// at appends an index to a path.
func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// numbered returns name-1 to name-count.
func numbered(name string, count int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", name, i+1)
	}
	return out
}

// checkLabel files an error unless the name can be a host's.
func (x *expansion) checkLabel(path, name string, most int) bool {
	switch {
	case name == "":
		x.add(path, "is empty; write lower-case letters, digits and hyphens")
	case len(name) > most:
		x.add(path, "is %s, %d characters long; at most %d", show(name), len(name), most)
	case !dnsLabel.MatchString(name):
		x.add(path, "is %s; write lower-case letters, digits and hyphens, with no hyphen first or last", show(name))
	default:
		return true
	}
	return false
}

// ifnameMax is the longest interface name in bytes (IFNAMSIZ less the NUL).
const ifnameMax = 15

// namer hands out interface names that are unique in one namespace, with the
// path of what has each.
type namer map[string]string

// fit returns the name itself, or when that is too long or taken, its first
// six bytes and eight hex digits of its hash.
func (n namer) fit(name, path string) string {
	short := name
	for salt := 0; len(short) > ifnameMax || n[short] != ""; salt++ {
		short = fmt.Sprintf("%.6s-%.8s", name, digest("ifname", name, strconv.Itoa(salt)))
	}
	n[short] = path
	return short
}

// reserved reports whether a node's or pod's own programs, or the kernel,
// claim the name: cni0, flannel's devices, lo, and the two words that
// /proc/sys/net/ipv4/conf gives another meaning.
func reserved(ifname string) bool {
	switch ifname {
	case "lo", "cni0", "all", "default":
		return true
	}
	return len(ifname) >= 7 && ifname[:7] == "flannel"
}

// checkIfname files an error unless the kernel takes the name, or its hash.
func (x *expansion) checkIfname(path, name string, most int) bool {
	switch {
	case len(name) > most:
		x.add(path, "is %s, %d bytes long; at most %d", show(name), len(name), most)
	case !plainIfname.MatchString(name):
		x.add(path, "is %s; write letters, digits, dots, hyphens and underscores", show(name))
	case reserved(name):
		x.add(path, "is %q, which the kernel or the overlay itself uses; choose another name", name)
	default:
		return true
	}
	return false
}

// digest returns 64 hex digits that depend on every name and on their order.
func digest(names ...string) string {
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%d:%s", len(n), n)
	}
	return hex.EncodeToString(h.Sum(nil))
}
