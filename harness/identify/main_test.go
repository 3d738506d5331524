package identify_test

import (
	"testing"

	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
