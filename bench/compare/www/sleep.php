<?php
// The slow tenth of the mixed load.
usleep(20000);
echo "Hello, sleeper!\n";
