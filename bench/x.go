package bench

import _ "github.com/idem-go/idem/driver"
