package topology

import (
	"strings"

	"github.com/distribution/reference"
)

// Runtime says what a lab's pods are.
type Runtime string

const (
	// RuntimeNetns makes a pod of a network namespace alone: it sees its
	// node's files, and nothing runs in it until somebody asks.
	RuntimeNetns Runtime = "netns"
	// RuntimeContainerd makes a pod a container in its network namespace.
	RuntimeContainerd Runtime = "containerd"
)

// imageFile begins an image that is an archive's path.
const imageFile = "file:"

// ImageFile returns the path of the archive that an image of the plan names,
// and whether it names one.
func ImageFile(image string) (path string, ok bool) { return strings.CutPrefix(image, imageFile) }

// runtime settles what the pods are.
func (x *expansion) runtime() {
	x.plan.Runtime = Runtime(x.choose("spec.runtime", x.spec.Runtime, []string{string(RuntimeNetns), string(RuntimeContainerd)}))
	if x.spec.Image != "" {
		x.image("spec.image", x.spec.Image)
	}
}

// container settles what one pod's container is made of.
func (x *expansion) container(p *pod) {
	if len(p.spec.Command) > 0 {
		x.onlyContainers(p.path + ".command")
		if p.spec.Command[0] == "" {
			x.add(p.path+".command[0]", "is empty; write a program of the image, or leave command out for the image's own")
		}
	}
	image, path := p.spec.Image, p.path+".image"
	if image == "" {
		image, path = x.spec.Image, ""
	}
	if path != "" {
		p.Image = x.image(path, image)
	} else if image != "" {
		p.Image, _ = x.named(image)
	}
	p.Command = p.spec.Command
}

// image checks an image that somebody wrote, and returns it as the plan has it.
func (x *expansion) image(path, image string) string {
	x.onlyContainers(path)
	name, wrong := x.named(image)
	if wrong != "" {
		x.add(path, "is %s, %s", show(image), wrong)
	}
	return name
}

// named gives an image its whole name: an archive's absolute path, or a
// reference with its registry and tag. wrong says why it has none.
func (x *expansion) named(image string) (name, wrong string) {
	if file, ok := ImageFile(image); ok {
		path, ok := x.source.resolve(file)
		if !ok || file == "" {
			return "", "which needs the path of an archive; write file: and an absolute path"
		}
		return imageFile + path, ""
	}
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		return "", "which names no image: " + err.Error() + "; write a reference such as registry.k8s.io/pause:3.10, or file: and the path of an archive"
	}
	return ref.String(), ""
}

// onlyContainers refuses what bare namespaces have no use for.
func (x *expansion) onlyContainers(path string) {
	if x.plan.Runtime != RuntimeContainerd {
		x.add(path, "is a matter of containers, and the pods of this lab are bare namespaces; add runtime: containerd to spec, or leave this out")
	}
}
