<?php

return ['products' => 'Waren'];
