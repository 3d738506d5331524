package topology

import (
	"slices"
	"testing"
)

func TestContainersOfAPlan(t *testing.T) {
	p := plan(t, `  runtime: containerd
  image: busybox
  pods:
  - {name: a, node: master}
  - {name: b, node: master, image: registry.k8s.io/pause:3.10, command: [/pause, -v]}
  - {name: c, node: node-1, image: "file:/images/c.tar"}
`)
	if p.Runtime != RuntimeContainerd {
		t.Errorf("runtime %s", p.Runtime)
	}
	for i, want := range []string{"docker.io/library/busybox:latest", "registry.k8s.io/pause:3.10", "file:/images/c.tar"} {
		if got := p.Pods[i].Image; got != want {
			t.Errorf("image of %s: %s, want %s", p.Pods[i].Name, got, want)
		}
	}
	if !slices.Equal(p.Pods[1].Command, []string{"/pause", "-v"}) || p.Pods[0].Command != nil {
		t.Errorf("commands %q and %q", p.Pods[0].Command, p.Pods[1].Command)
	}
	if path, ok := ImageFile(p.Pods[2].Image); !ok || path != "/images/c.tar" {
		t.Errorf("the archive is %q, %t", path, ok)
	}
	if bare := plan(t, "  {}\n"); bare.Runtime != RuntimeNetns || bare.Pods[0].Image != "" {
		t.Errorf("without the key: %s, image %q", bare.Runtime, bare.Pods[0].Image)
	}
}

func TestContainerRules(t *testing.T) {
	testBad(t, header, []badSpec{
		{"an unknown runtime", "  runtime: docker\n", []string{
			`4:12: spec.runtime: is "docker"; write netns or containerd`}},
		{"images without containers", "  image: busybox\n  pods: [{name: p, node: master, image: busybox, command: [sh]}]\n", []string{
			"4:10: spec.image: is a matter of containers, and the pods of this lab are bare namespaces; add runtime: containerd to spec, or leave this out",
			"5:41: spec.pods[0].image: is a matter of containers, and the pods of this lab are bare namespaces; add runtime: containerd to spec, or leave this out",
			"5:59: spec.pods[0].command: is a matter of containers, and the pods of this lab are bare namespaces; add runtime: containerd to spec, or leave this out"}},
		{"no reference", "  runtime: containerd\n  image: Busy box\n", []string{
			`5:10: spec.image: is "Busy box", which names no image: invalid reference format: repository name (library/Busy box) must be lowercase; write a reference such as registry.k8s.io/pause:3.10, or file: and the path of an archive`}},
		{"a path without a folder", "  runtime: containerd\n  pods: [{name: p, node: master, image: file:c.tar, command: ['']}]\n", []string{
			`5:41: spec.pods[0].image: is "file:c.tar", which needs the path of an archive; write file: and an absolute path`,
			"5:63: spec.pods[0].command[0]: is empty; write a program of the image, or leave command out for the image's own"}},
	})
}
