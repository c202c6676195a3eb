package linearize

import _ "github.com/idem-go/idem/driver"
