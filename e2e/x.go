package e2e

import _ "github.com/idem-go/idem/driver"
