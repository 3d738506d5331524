package kind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/defaults"

	"github.com/overlab/overlab/internal/nodeimage"
)

// nodeImage is the image that a lab's nodes run. Where Docker has it not, it is
// loaded from the archive, or pulled.
type nodeImage struct {
	name, archive string
	pull          bool
}

// chooseImage takes the image that was asked for, pulled where Docker has it not,
// as kind itself would, unseen; kind's own, where Docker has
// it; the one that `overlab image node` built, from Docker or the cache; and
// else kind's own, to be pulled.
func chooseImage(ctx context.Context, asked string) (nodeImage, error) {
	if asked != "" {
		return nodeImage{name: asked, pull: !hasImage(ctx, asked)}, nil
	}
	for _, name := range []string{defaults.Image, nodeimage.Name} {
		if hasImage(ctx, name) {
			return nodeImage{name: name}, nil
		}
	}
	switch archive, err := nodeimage.Cached(); {
	case err == nil:
		return nodeImage{name: nodeimage.Name, archive: archive}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nodeImage{}, err
	}
	return nodeImage{name: defaults.Image, pull: true}, nil
}

func hasImage(ctx context.Context, name string) bool {
	out, err := docker(ctx, nil, "image", "ls", "-q", name)
	return err == nil && strings.TrimSpace(string(out)) != ""
}

// loadImage puts the image into Docker, unless it is there or can be pulled.
func (b *builder) loadImage(ctx context.Context) (name, detail string, err error) {
	image, err := chooseImage(ctx, b.options.NodeImage)
	if err != nil {
		return "", "", err
	}
	if image.pull {
		if err := b.state.bring(image.name); err != nil {
			return "", "", err
		}
		if _, err := docker(ctx, nil, "pull", "-q", image.name); err != nil {
			return "", "", fmt.Errorf("there is no node image %s in Docker, and it cannot be pulled: %w (`overlab image node` builds one from Debian packages and Go modules)", image.name, err)
		}
		return image.name, image.name + ", pulled", nil
	}
	if image.archive == "" {
		return image.name, image.name, nil
	}
	f, err := os.Open(image.archive)
	if err != nil {
		return "", "", fmt.Errorf("load the node image: %w", err)
	}
	defer f.Close()
	if err := b.state.bring(image.name); err != nil {
		return "", "", err
	}
	if _, err := docker(ctx, f, "load"); err != nil {
		return "", "", fmt.Errorf("load the node image %s: %w", image.archive, err)
	}
	return image.name, image.name + " from " + image.archive, nil
}

// removeImage removes an image, unless another lab's nodes run it.
func removeImage(ctx context.Context, name string) error {
	out, err := docker(ctx, nil, "ps", "-aq", "--filter", "ancestor="+name)
	if err != nil || len(out) > 0 || !hasImage(ctx, name) {
		return err
	}
	_, err = docker(ctx, nil, "image", "rm", name)
	return err
}
