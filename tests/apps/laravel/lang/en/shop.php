<?php

return ['products' => 'products'];
