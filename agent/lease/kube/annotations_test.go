package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPrefix(t *testing.T) {
	for prefix, want := range map[string]string{
		"":                                       "flannel.alpha.coreos.com/public-ip",
		"flannel.alpha.coreos.com":               "flannel.alpha.coreos.com/public-ip",
		"example.com/":                           "example.com/public-ip",
		"example.com/net":                        "example.com/net-public-ip",
		"example.com/net-":                       "example.com/net-public-ip",
		"nodots":                                 "not a full domain name",
		"nodots/net-":                            "not a full domain name",
		"example.com/a/b":                        "must",
		"exa_mple.com":                           "subdomain",
		"Example.com":                            "must",
		"example.com/Net-":                       "upper-case",
		"example.com/né-":                        "must",
		"/net-":                                  "prefix part",
		"example.com/" + strings.Repeat("x", 50): "63",
	} {
		got := ""
		if a, err := newAnnotations(prefix); err != nil {
			got = err.Error()
		} else {
			got = a.publicIP
		}
		if got != want && (strings.HasSuffix(want, "public-ip") || !strings.Contains(got, want)) {
			t.Errorf("%q: %s, not %s", prefix, got, want)
		}
	}
}

func TestPodSubnets(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "0.0.0.0-0",
		"10.244.1.0/24":               "10.244.1.0-24",
		"10.244.1.7/24":               "10.244.1.0-24",
		"10.244.1.0/24 fd00::/64":     "10.244.1.0-24&fd00::-64",
		"fd00::/64 10.244.1.0/24":     "10.244.1.0-24&fd00::-64",
		"10.244.1.0/24 10.244.2.0/24": "10.244.1.0-24",
		"fd00::/64":                   "0.0.0.0-0&fd00::-64",
		"10.244.1.0":                  `podCIDR "10.244.1.0" of node a is not a subnet`,
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{PodCIDRs: strings.Fields(in)}}
		k, err := podSubnets(n)
		got := k.String()
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
	// An API server of before dual stack.
	if k, err := podSubnets(&corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24"}}); err != nil || k.String() != "10.244.1.0-24" {
		t.Errorf("podCIDR alone: %v, %v", k, err)
	}
}

func TestRevision(t *testing.T) {
	for in, want := range map[string]int64{"1": 1, "9007199254740993": 9007199254740993, "0": 0, "": 0, "-1": 0, "x": 0} {
		if got, err := revision(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
}

// FuzzAnnotations: what is read is written back in the same sense.
func FuzzAnnotations(f *testing.F) {
	f.Add("vxlan", `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`, "172.16.1.1", `{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`, "fd00::1")
	f.Add("host-gw", "null", "172.16.1.1", "", "")
	names, err := newAnnotations("")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, typ, data, ip, dataV6, ipV6 string) {
		attrs, err := names.read(map[string]string{
			names.backendType: typ, names.backendData: data, names.publicIP: ip, names.backendV6Data: dataV6, names.publicIPv6: ipV6,
		})
		if err != nil {
			return
		}
		if !attrs.PublicIP.IsValid() {
			attrs.BackendData = nil // it is of no family that the node has
		}
		if !attrs.PublicIPv6.IsValid() {
			attrs.BackendV6Data = nil
		}
		again, err := names.read(names.values(attrs))
		if err != nil || !again.Equal(attrs) {
			t.Errorf("%+v became %+v, %v", attrs, again, err)
		}
	})
}
