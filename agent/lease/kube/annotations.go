package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/overlab/overlab/agent/lease"
)

// DefaultPrefix is flannel's --kube-annotation-prefix where none is given.
const DefaultPrefix = "flannel.alpha.coreos.com"

// annotations are the keys, with their prefix (flannel,
// pkg/subnet/kube/annotations.go).
type annotations struct {
	// managed is "true" on a node that has a lease.
	managed                    string
	backendType                string
	backendData, backendV6Data string
	publicIP, publicIPv6       string
	// What an administrator writes: the addresses to use, and the addresses to
	// publish in place of those that are used.
	nodePublicIP, nodePublicIPv6           string
	publicIPOverwrite, publicIPv6Overwrite string
}

// newAnnotations checks the prefix: a domain name with a dot in it, or one
// and "/" and the beginning of a name. Where it ends in neither "/" nor "-",
// what is missing is added, as flannel does.
func newAnnotations(prefix string) (annotations, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	full := prefix
	if !strings.Contains(full, "/") {
		full += "/"
	}
	if !strings.HasSuffix(full, "/") && !strings.HasSuffix(full, "-") {
		full += "-"
	}
	a := annotations{
		managed: full + "kube-subnet-manager", backendType: full + "backend-type",
		backendData: full + "backend-data", backendV6Data: full + "backend-v6-data",
		publicIP: full + "public-ip", publicIPv6: full + "public-ipv6",
		nodePublicIP: full + "node-public-ip", nodePublicIPv6: full + "node-public-ipv6",
		publicIPOverwrite: full + "public-ip-overwrite", publicIPv6Overwrite: full + "public-ipv6-overwrite",
	}
	wrong := validation.IsQualifiedName(a.managed) // the API's own rule; the longest counts
	wrong = append(wrong, validation.IsQualifiedName(a.publicIPv6Overwrite)...)
	if domain, _, _ := strings.Cut(full, "/"); !strings.Contains(domain, ".") {
		wrong = append(wrong, fmt.Sprintf("%q is not a full domain name", domain))
	}
	if strings.ToLower(full) != full {
		wrong = append(wrong, "it has upper-case letters")
	}
	if len(wrong) > 0 {
		return annotations{}, fmt.Errorf("annotation prefix %q is none, such as %s or example.com/net-: %s", prefix, DefaultPrefix, wrong[0])
	}
	return a, nil
}

// null is the backend-data of a backend that has none.
const null = "null"

// values returns what a node's annotations say of a lease; "" is for one that
// must not be there. The texts of backend data are the backend's own: flannel
// reads its MAC address from the text of {"VNI":1,"VtepMAC":"…"}.
func (a annotations) values(l lease.Attrs) map[string]string {
	data := func(raw json.RawMessage) string {
		if len(raw) == 0 {
			return null
		}
		return string(raw)
	}
	out := map[string]string{a.managed: "true", a.backendType: l.BackendType, a.publicIP: "", a.publicIPv6: "", a.backendData: "", a.backendV6Data: ""}
	if l.PublicIP.IsValid() {
		out[a.publicIP], out[a.backendData] = l.PublicIP.String(), data(l.BackendData)
	}
	if l.PublicIPv6.IsValid() {
		out[a.publicIPv6], out[a.backendV6Data] = l.PublicIPv6.String(), data(l.BackendV6Data)
	}
	return out
}

// read returns what a node's annotations say of its lease.
func (a annotations) read(has map[string]string) (lease.Attrs, error) {
	l := lease.Attrs{BackendType: has[a.backendType]}
	var err4, err6, errData, errV6Data error
	l.PublicIP, err4 = a.address(has, a.publicIP, netip.Addr.Is4)
	l.PublicIPv6, err6 = a.address(has, a.publicIPv6, netip.Addr.Is6)
	l.BackendData, errData = a.data(has, a.backendData)
	l.BackendV6Data, errV6Data = a.data(has, a.backendV6Data)
	err := errors.Join(err4, err6, errData, errV6Data)
	if err == nil && !l.PublicIP.IsValid() && !l.PublicIPv6.IsValid() {
		err = fmt.Errorf("annotation %s is missing", a.publicIP)
	}
	return l, err
}

// address reads an annotation that is an address; the zero one where it is
// missing.
func (a annotations) address(has map[string]string, key string, family func(netip.Addr) bool) (netip.Addr, error) {
	if has[key] == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(has[key])
	if err != nil || !family(addr) || addr.Zone() != "" {
		kind := "IPv4"
		if strings.HasSuffix(strings.TrimSuffix(key, "-overwrite"), "v6") {
			kind = "IPv6"
		}
		return netip.Addr{}, fmt.Errorf("annotation %s: %q is not an %s address", key, has[key], kind)
	}
	return addr, nil
}

// data reads an annotation that is a backend's data.
func (a annotations) data(has map[string]string, key string) (json.RawMessage, error) {
	text := has[key]
	switch {
	case text == "" || text == null:
		return nil, nil
	case !json.Valid([]byte(text)):
		return nil, fmt.Errorf("annotation %s: %.100q is not JSON", key, text)
	}
	return json.RawMessage(text), nil
}

// overwrite replaces what is published by what an administrator wants to be
// published.
func (a annotations) overwrite(l lease.Attrs, has map[string]string) (lease.Attrs, error) {
	v4, v6, err := a.shown(has)
	return l.Shown(v4, v6), err
}

// shown returns what an administrator wants to be published in place of the
// node's addresses.
func (a annotations) shown(has map[string]string) (v4, v6 netip.Addr, err error) {
	v4, err4 := a.address(has, a.publicIPOverwrite, netip.Addr.Is4)
	v6, err6 := a.address(has, a.publicIPv6Overwrite, netip.Addr.Is6)
	return v4, v6, errors.Join(err4, err6)
}
